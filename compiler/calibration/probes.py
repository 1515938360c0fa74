"""What a network makes of the same few made-up samples, of any scale and mean.

The samples are drawn once, and as many of them run as what is observed leaves room for. A batch
that the model fixes beyond that is made smaller where the network runs on fewer samples; where it
does not, no scale is tried, since each would cost a whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from ...passes.graph.network import Network
from ..errors import DataError, ModelError
from ..running.expose import with_outputs
from ..running.session import make_session, run_samples
from ..samples.base import Feed, InputSpec
from ..samples.synthetic import Look, SyntheticSamples

#: Samples that each scale and mean is tried on, and bytes of what is observed of them.
_PROBES, _FIRST_PROBES = 32, 8
_PROBE_BUDGET = 64 << 20
#: Values of all samples together where they are large; fewer tell as much, but so many are tried.
_PROBE_VALUES, _FEWEST_PROBES = 1 << 20, 8


class NotMatchedError(Exception):
    """Why made-up samples are not matched to the network, as the end of a sentence about it."""


class Probes:
    """Runs a network with one input on samples of one look, apart from their scale and mean.

    Args:
        network: a model that runs; left as it is.
        spec: its only input.
        look: of the samples.
        seed: the same seed gives the same samples.
        names: the tensors that are observed.

    Attributes:
        feeds: the samples; the first feed holds a part of them.

    Raises:
        NotMatchedError: the network does not run on such samples, or the tensors cannot be seen.
    """

    def __init__(
        self, network: Network, spec: InputSpec, look: Look, seed: int, names: Sequence[str]
    ) -> None:
        self._name, self._dtype, self._look = spec.name, spec.dtype, look
        fixed = (spec.shape[0] if spec.shape else None) or 0
        try:
            if fixed > _PROBES:
                network = _of_batch(network, spec.name, _PROBES)
                spec = spec._replace(shape=(_PROBES, *spec.shape[1:]))
            self._session = make_session(with_outputs(network, names), library=False)
            self.feeds = self._fitting(spec, seed)
        except (DataError, ModelError, KeyError) as error:
            reason = f"which does not show its values: {error}"
            if fixed > _PROBES:
                reason = f"which has a batch of {fixed} and does not run on fewer samples: {error}"
            raise NotMatchedError(reason) from error

    def _fitting(self, spec: InputSpec, seed: int) -> list[Feed]:
        """As many samples as the budgets allow, at least one."""
        patterns = {spec.name: Look(self._look.pattern)}
        base = SyntheticSamples([spec], _PROBES, seed, patterns)
        first = next(base.batches(1))
        size = sum(array.nbytes for array in run_samples(self._session, first, "the model"))
        count, values = len(first[self._name]), first[self._name].size
        most = int(np.clip(_PROBE_VALUES * count // max(values, 1), _FEWEST_PROBES, _PROBES))
        most = int(np.clip(_PROBE_BUDGET * count // max(size, 1), 1, most))
        feeds, held = [], 0
        for feed in base.batches(min(most, _FIRST_PROBES)):
            if held >= most:
                break
            feeds.append(feed)
            held += len(feed[self._name])
        return feeds

    def run(self, feed: Feed, octave: float, offset: float = 0.0) -> list[np.ndarray] | None:
        """The tensors observed, for samples of scale 2^octave; None where it does not run."""
        look = replace(self._look, scale=2.0**octave, offset=offset)
        with np.errstate(over="ignore"):
            shown = {self._name: look.scaled(feed[self._name]).astype(self._dtype)}
        try:
            return run_samples(self._session, shown, "the model")
        except DataError:
            return None


def _of_batch(network: Network, name: str, batch: int) -> Network:
    """A copy whose input has another batch size; it may not run."""
    proto = ModelProto()
    proto.CopyFrom(network.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        if value.name == name:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return Network(proto, network.weights)
