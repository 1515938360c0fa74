"""One run of a network, for what only a run tells: shapes."""

from __future__ import annotations

from collections.abc import Iterable

from ...passes.graph.network import Network
from ..samples.files import Feed
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
