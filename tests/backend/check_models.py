"""Every backend test model of the installed onnx through the front end and the compiler.

    python tests/backend/check_models.py [--no-compile] [--only TEXT] [--table docs/backend.md]

What is asked of each model is in checks.py. Models run in processes of their own, so that a crash
of native code is counted and the rest goes on. Exit code 1 if anything fails.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent))

from cases import all_cases
from checks import FAILURES, Outcome

_WORKER = Path(__file__).with_name("checks.py")


def check_all(names: list[str], *, compile_too: bool, workers: int = 2) -> list[Outcome]:
    """Outcomes of the cases with these names, in order of name."""
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=_drive, args=(names[i::workers], compile_too, outcomes))
        for i in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes, key=lambda outcome: (outcome.name, outcome.step != "front end"))


def _drive(names: list[str], compile_too: bool, outcomes: list[Outcome]) -> None:
    """Feed one worker after another until every name has an outcome."""
    while names:
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(names) + "\n" + json.dumps(compile_too) + "\n")
            process.stdin.close()
            done = 0
            for line in process.stdout:
                outcomes += [Outcome(**fields) for fields in json.loads(line)]
                done += 1
        if done < len(names):
            detail = f"exit code {process.returncode}"
            outcomes.append(Outcome(names[done], "", "front end", "crash", detail))
            done += 1
        names = names[done:]


def reason_class(detail: str) -> str:
    """The reason of a refusal without the names and numbers of the model."""
    text = detail.splitlines()[0].split(";")[0] if detail else ""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", text)
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)", "", text)
    text = re.sub(r"\b\d[\d.]*\b", "N", text)
    return re.sub(r"\s+", " ", text)[:110].strip()


def table(outcomes: list[Outcome]) -> str:
    """The page for the documentation."""
    lines = [
        "# The backend test models of the onnx package",
        "",
        "Every model of `onnx.backend.test` through the front end (opset upgrade, the passes that",
        "default options run) and through the whole compiler. What is asked of each is in",
        "`tests/backend/checks.py`. Written by",
        "",
        "```",
        "python tests/backend/check_models.py --table docs/backend.md",
        "```",
        "",
        f"with onnx {onnx.__version__} and onnxruntime {ort.__version__}.",
    ]
    for step, title in (("front end", "Front end"), ("compile", "Compiler")):
        chosen = [outcome for outcome in outcomes if outcome.step == step]
        if not chosen:
            continue
        kinds = sorted({outcome.kind for outcome in chosen if outcome.kind})
        lines += ["", f"## {title}", "", f"| outcome | {' | '.join(kinds)} | all |"]
        lines.append("| --- |" + " ---: |" * (len(kinds) + 1))
        for name in sorted({outcome.outcome for outcome in chosen}):
            per_kind = Counter(o.kind for o in chosen if o.outcome == name)
            counts = [*(per_kind[kind] for kind in kinds), sum(per_kind.values())]
            lines.append(f"| {_TITLES[name]} | {' | '.join(map(str, counts))} |")
        for name in ("out of scope", "runtime", "refused", *FAILURES):
            reasons = Counter(reason_class(o.detail) for o in chosen if o.outcome == name)
            if reasons:
                lines += ["", f"{_TITLES[name][0].upper()}{_TITLES[name][1:]}:", ""]
                lines += ["| reason | models |", "| --- | ---: |"]
                lines += [
                    f"| {reason.replace('|', '/')} | {count} |"
                    for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair))
                ]
    return "\n".join(lines) + "\n"


_TITLES = {
    "same": "the outputs are kept",
    "compiled": "compiled, valid and runs",
    "refused": "refused with a reason",
    "out of scope": "out of scope (takes no float tensor, or something else than numbers)",
    "runtime": "the runtime itself fails on the original",
    "crash": "FAILED: native crash",
    "traceback": "FAILED: traceback",
    "wrong": "FAILED: outputs changed",
    "invalid": "FAILED: compiled model is not valid",
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="write the page here")
    parser.add_argument("--no-compile", action="store_true", help="front end only")
    parser.add_argument("--only", default="", help="cases with this text in the name")
    arguments = parser.parse_args()
    names = [case.name for case in all_cases() if arguments.only in case.name]
    outcomes = check_all(names, compile_too=not arguments.no_compile)
    failures = [outcome for outcome in outcomes if outcome.outcome in FAILURES]
    page = table(outcomes)
    lines = [page]
    for failure in failures:
        lines.append(f"--- {failure.step}: {failure.outcome}: {failure.name}\n{failure.detail}\n")
    if arguments.table:
        arguments.table.write_text(page)
    lines.append(f"{len(names)} models, {len(failures)} failures\n")
    sys.stdout.write("\n".join(lines))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
