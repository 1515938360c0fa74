"""Cross-layer equalisation by the ranges that calibration samples show.

One pass over the samples finds the range of every channel of a site (``equalise.py``): the
scale of ``channel_scales.py``, of what the neuron will give. ``range_scales`` makes them alike, and
the neighbouring weights take what is divided out, so that neurons with one threshold for a whole
tensor serve all its channels. Normalisations get a copy for the encoders that read them, so that
the large channels of a LayerNorm are equalised too. Sites with channels along several axes
(attention heads) are scaled as far as others ask it of them.
"""

from __future__ import annotations

import numpy as np

from ...passes.graph.graph import Graph, PassResult
from ...passes.graph.surgeon import export_network
from ...passes.neurons.equalise import equalise, find_sites, own_norms, range_scales
from ..progress import Progress
from ..running.histograms import Watch, observe_samples
from ..samples.files import Samples
from .fitting.channel_scales import channel_scales
from .fitting.distributions import distributions


def equalise_ranges(graph: Graph, samples: Samples, size: int, progress: Progress) -> PassResult:
    """Give the channels of every site one range.

    Args:
        graph: the canonical graph with its encoders.
        samples: calibration samples.
        size: how many run at a time.
        progress: told about batches done.
    """
    prepared = own_norms(graph)
    graph = prepared.graph
    sites = [site for site in find_sites(graph) if site.axis is not None]
    watches = {s.input: Watch(s.input, s.axis, s.channels) for s in sites}
    if not watches:
        return prepared
    network, watched = export_network(graph), list(watches.values())
    observations = observe_samples(network, watched, samples, size, progress, "ranges of channels")
    scales = {}
    for site in sites:
        rows = distributions(observations.histograms[site.input])
        if site.op == "Relu":
            rows = [row.of(lambda x: np.maximum(x, 0)) for row in rows]
        scales[site.output] = range_scales(channel_scales(rows))
    result = equalise(graph, scales)
    result.changes[:0] = prepared.changes
    return result
