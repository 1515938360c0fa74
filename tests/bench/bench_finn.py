"""Networks of target qonnx in FINN: what becomes hardware, and what is left.

    python tests/bench/bench_finn.py [--venv FOLDER] [--data DATA] [--networks NAME ...]
        [--options NAME=VALUE ...]

``digits`` is the bundled network; others are shared networks (``shared_networks.py``), which need
``--data``. FINN runs with ``FOLDER/finn/bin/python``, made where it is not there, in a process of
its own (``finn_worker.py``). Options are those of ``CompileOptions``. The inputs are four
calibration samples. FINN takes minutes for a network of twenty layers. Two tables in Markdown:

1. By network and stage: its operators; samples whose output differs by more than rounding from what
   the file gives in qonnx's executor, for a potential met a threshold but for rounding; the largest
   difference relative to the largest output.
2. What of the last stage is no hardware layer, or is one of floats, and whether it stands between
   two neurons.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_web
import make_runtimes
import numpy as np
import onnx
from shared_networks import Feed
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.model_io.save import save_network

#: The version whose figures docs/qonnx.md has.
REQUIREMENTS = ("finn-plus==1.6.1",)
_WORKER = Path(__file__).with_name("finn_worker.py")
_SAMPLES = 4
#: Seconds. StreamlinePlus does not end where a map is the output: it moves a Mul to and fro.
_PATIENCE = 3600
_NETWORKS = ["digits", "cifar10_resnet20"]


def run_finn(python: Path | str, model: Path, samples: Path) -> dict[str, Any]:
    """The answer of ``finn_worker.py``.

    Raises:
        RuntimeError: it is not installed, does not end, or with another status than 0.
    """
    command = [str(Path(one).absolute()) for one in (python, _WORKER, model, samples)]
    with tempfile.TemporaryDirectory() as folder:  # for what FINN leaves behind
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=folder, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"FINN: not done after {_PATIENCE} s") from error
    if done.returncode:
        raise RuntimeError(f"FINN: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "absent" in answer:
        raise RuntimeError(f"{python} has no module {answer['absent']}")
    return answer


def write_network(
    name: str, loaded: tuple[onnx.ModelProto, Feed], options: CompileOptions, folder: Path
) -> tuple[Path, Path]:
    """The compiled network, and an .npz with the first samples of its calibration."""
    model, calibration = loaded
    source, everything, compiled, samples = (
        folder / f"{name}.{end}" for end in ("ann.onnx", "npz", "snn.onnx", "feed.npz")
    )
    onnx.save(model, source)
    np.savez(everything, **calibration)
    np.savez(samples, **{key: array[:_SAMPLES] for key, array in calibration.items()})
    written = compile_model(source, everything, options).artifact.files[""]
    if isinstance(written, bytes):
        raise AssertionError("a network is written")
    save_network(written, compiled)
    return compiled, samples


def tables(answers: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of both tables.

    Args:
        answers: of ``finn_worker.py`` by network.
    """
    lines = [
        "| network | stage | operators | other outputs | difference |",
        "|---|---|---|---|---|",
    ]
    for network, answer in answers.items():
        for stage in answer["stages"]:
            nodes = ", ".join(f"{count} {op}" for op, count in stage["nodes"].items())
            cells = (network, stage["name"], nodes, stage["flipped"], f"{stage['difference']:.1g}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| network | node | layer | reads | between neurons |", "|---|---|---|---|---|"]
    for network, answer in answers.items():
        for one in answer["left"]:
            layer, between = ("yes" if one[key] else "no" for key in ("hardware", "between"))
            cells = (network, one["op"], layer, ", ".join(one["reads"]), between)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=Path("build"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="+", default=_NETWORKS)
    parser.add_argument("--options", nargs="*", default=[], help="NAME=VALUE of CompileOptions")
    arguments = parser.parse_args()
    reason = make_runtimes.make("finn", arguments.venv, REQUIREMENTS)
    if reason:
        sys.exit(f"FINN cannot be installed: {reason}")
    given = dict(option.split("=", 1) for option in arguments.options)
    values = {name: int(text) if text.isdigit() else text for name, text in given.items()}
    options = CompileOptions(target="qonnx", **values)
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            gone = bench_web.absent(name, arguments.data)
            if gone:
                print(f"{name}: left out, {gone}", file=sys.stderr)
                continue
            loaded = bench_web.load(name, arguments.data)
            files = write_network(name, loaded, options, Path(folder))
            answers[name] = run_finn(arguments.venv / "finn" / "bin" / "python", *files)
            print(f"{name}: {answers[name]}", file=sys.stderr)
    print("\n".join(tables(answers)))


if __name__ == "__main__":
    main()
