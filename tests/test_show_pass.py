"""``make pass``: the text of the network behind a pass."""

from __future__ import annotations

import pytest
import show_pass


def test_each_pass_shows_what_it_leaves(digits):
    before, after = (
        show_pass.text_behind(name, digits) for name in ("recognise", "fold_batchnorm")
    )
    assert (before.count(" = BatchNormalization <"), after.count(" = BatchNormalization <")) == (
        6,
        0,
    )
    assert before.count(" = Conv <") == after.count(" = Conv <") == 6
    assert '"/stem/Conv.weight" =  {}' in after  # which is new
    assert "/stem/Conv.weight" not in before


def test_the_command_prints_it_or_says_why_not(digits, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["show_pass.py", "canonicalise", str(digits)])
    show_pass.main()
    assert capsys.readouterr().out == show_pass.text_behind("canonicalise", digits) + "\n"
    monkeypatch.setattr("sys.argv", ["show_pass.py", "canonicalise", "none.onnx"])
    with pytest.raises(SystemExit, match=r"none\.onnx: no such file"):
        show_pass.main()
