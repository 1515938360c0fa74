"""What a command makes of exceptions."""

from __future__ import annotations

import pytest
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.terminal.command import run_command


def initialise():
    raise ImportError("initialization failed") from KeyboardInterrupt()


def ask_for_an_extra():
    try:
        initialise()
    except ImportError:
        raise UsageError("pip install something") from None


@pytest.mark.parametrize("work", [initialise, ask_for_an_extra])
def test_ctrl_c_while_an_extension_module_is_imported_is_an_interruption(work, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command(work, debug=False)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"


def test_other_errors_keep_what_they_are(capsys):
    def work():
        try:
            raise ValueError("first")
        except ValueError as error:
            raise UsageError("give something else") from error

    with pytest.raises(SystemExit) as stopped:
        run_command(work, debug=False)
    assert stopped.value.code == UsageError.exit_code
    assert capsys.readouterr().err == "error: give something else\n"
