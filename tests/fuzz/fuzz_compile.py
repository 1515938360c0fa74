"""Coverage-guided fuzzing of reading and compiling a model, with atheris.

    pip install atheris        # not a dependency of the tests
    python tests/fuzz/fuzz_compile.py -max_total_time=60 -timeout=20 CORPUS

``CORPUS`` is a folder that gets the models to start from. The bytes are the model's; whatever is
raised besides a refusal ends the run, and libFuzzer keeps the file.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["snn_compile", "onnx_graphsurgeon"]):
    from snn_compile.compiler import CompileOptions, compile_model, pipeline
    from snn_compile.compiler.errors import SnnCompileError

from seeds import DATA, DATA_FILE, seed_models

_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-compile-"))


def one_input(data: bytes) -> None:
    """Compile these bytes."""
    path = _FOLDER / "model.onnx"
    path.write_bytes(data)
    try:
        compile_model(path, None, CompileOptions())
    except (SnnCompileError, MemoryError):
        return


def main() -> None:
    """Write the seeds into the corpus folder and start."""
    warnings.simplefilter("ignore")
    pipeline.SYNTHETIC_SAMPLES = 4
    (_FOLDER / DATA_FILE).write_bytes(DATA)
    for folder in [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, model in enumerate(seed_models()):
            (folder / f"seed{number}.onnx").write_bytes(model.SerializeToString())
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
