"""``snn-eval``: does the spiking network still do what the ANN did, on test data?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .terminal import progress_bar, run_command, say, show_table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("ann", type=click.Path(path_type=Path))
@click.argument("snn", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Samples as for snn-compile --calibration; an .npz may hold 'labels' for top-1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="snn-compile")
def main(ann: Path, snn: Path, data: Path, as_json: bool, debug: bool) -> None:
    """Compare the network ANN with the compiled network SNN on test data."""

    def work() -> None:
        from .evaluate import evaluate
        from .report import finite

        with progress_bar() as progress:
            evaluation = evaluate(ann, snn, data, progress)
        if as_json:
            say(json.dumps(finite(asdict(evaluation)), indent=2, allow_nan=False))
            return
        show_table(
            f"{evaluation.samples} samples",
            ["output", "ANN top-1", "SNN top-1", "agreement", "relative error", "largest diff."],
            [
                [
                    output.fidelity.name,
                    _share(output.ann_top1),
                    _share(output.snn_top1),
                    _share(output.fidelity.agreement),
                    f"{output.fidelity.relative_l2:.4f}",
                    f"{output.fidelity.max_abs:.4g}",
                ]
                for output in evaluation.outputs
            ],
        )

    run_command(work, debug)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
