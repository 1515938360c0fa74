"""Runs of a network for what only a run tells: shapes, and which sample overflows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...passes.graph.network import Network
from ..samples.base import Feed, Samples
from .expose import with_outputs
from .session import make_session, run_samples


def probe(network: Network, names: Iterable[str], feed: Feed) -> dict[str, tuple[int, ...]]:
    """Shapes of float32 tensors, seen when the network runs once.

    Args:
        network: any valid model.
        names: of its tensors, those in bodies of If included.
        feed: what it is run on.

    Returns:
        By name; tensors without values, such as those of a branch that was not taken, are missing.

    Raises:
        KeyError: no tensor of that name can be observed.
        DataError: the network does not run on the feed.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return {}
    values = run_samples(make_session(with_outputs(network, wanted)), feed, "the model")
    return {name: value.shape for name, value in zip(wanted, values, strict=True) if value.size}


def first_not_finite(network: Network, names: Iterable[str], samples: Samples) -> str:
    """Which sample first makes NaN or infinity of float32 tensors, and how large its arrays are.

    Args:
        network: any valid model.
        names: of its tensors.
        samples: they are run one by one, or in the batches that the model fixes.

    Returns:
        Text for a message; empty if none does.
    """
    session = make_session(with_outputs(network, list(names)))
    start = 0
    for feed in samples.batches(1):
        count = samples.count_in(feed)
        outputs = run_samples(session, feed, "the model")
        if not all(np.isfinite(values).all() for values in outputs):
            which = (
                f"sample {start} is"
                if count == 1
                else f"samples {start} to {start + count - 1} are"
            )
            floats = {name: array for name, array in feed.items() if array.dtype.kind == "f"}
            sizes = [
                f"array '{name}' up to {np.abs(array).max(initial=0):.3g}"
                for name, array in floats.items()
            ]
            return f"{which} the first, {', '.join(sizes) or 'with integers alone'}"
        start += count
    return ""
