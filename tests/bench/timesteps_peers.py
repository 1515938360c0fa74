"""ResNet-20 as other tools convert it: SpikingJelly's ann2snn and sinabs' from_model.

    pip install '.[peers]'

Neither reads ONNX: the network is written again in torch, with an ``nn.Module`` for every ReLU,
which is what both look for, and gets the weights of the ONNX file. That its outputs are the ONNX
network's is checked (:data:`TOLERANCE`).

SpikingJelly (``RateCodingRecipe``), by mode:

======  ============================================================================================
max     one threshold per layer, its largest activation
99.9%   one threshold per layer, the 99.9 % quantile
robust  a threshold per channel, the 99.9 % quantile; v(0) is half of it
======  ============================================================================================

The observers see all calibration samples in one batch: with several, they would keep a moving
average. sinabs, by mode: ``multi``, its default, any number of spikes per step, and ``single``, at
most one; thresholds 1, the weights as they are.

Inputs are presented at every step, the answer after T steps is the mean of the outputs so far, so
that one run of the most steps has them all. Spikes are what the neurons give, summed. All steps go
through a layer together; SpikingJelly can also run the network step by step, with the same outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

MODES = {"spikingjelly": ("max", "99.9%", "robust"), "sinabs": ("multi", "single")}
#: Most that an output of the network in torch may be from that of the ONNX file.
TOLERANCE = 1e-4
#: Images together, all steps of which are; larger tensors the allocator would map anew every time.
BATCH = 10

_BLOCKS, _WIDTHS = 3, (16, 32, 64)

#: From images [B, ...] and T to the outputs at each step, [T, B, classes].
Simulation = Callable[[Tensor, int], Tensor]
Count = Callable[[Tensor], None]


def _shortcut(width: int, out: int) -> nn.Module:
    """Every second pixel, and channels of zeros around those there are, as a convolution.

    SpikingJelly does not convert slices and padding.
    """
    if width == out:
        return nn.Identity()
    chosen = nn.Conv2d(width, out, 1, 2, bias=False)
    first = (out - width) // 2
    with torch.no_grad():
        chosen.weight.zero_()
        chosen.weight[range(first, first + width), range(width)] = 1
    return chosen


class _Block(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, 1 if width == out else 2, 1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.shortcut = _shortcut(width, out)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu1(self.conv1(x)))
        return self.relu2(y + self.shortcut(x))


class ResNet20(nn.Module):
    """The CIFAR-10 network, BatchNormalization folded into its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1)
        self.relu = nn.ReLU()
        widths = [_WIDTHS[0], *(width for width in _WIDTHS for _ in range(_BLOCKS))]
        self.blocks = nn.Sequential(*map(_Block, widths[:-1], widths[1:]))
        self.pool = nn.AvgPool2d(8)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(_WIDTHS[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] to scores [B, 10]."""
        y = self.blocks(self.relu(self.conv1(x)))
        return self.linear(self.flatten(self.pool(y)))


def load_resnet20(model: ModelProto) -> ResNet20:
    """The network in torch, with the weights of its convolutions and of its Gemm, in their order.

    Raises:
        ValueError: there are others than this network has.
    """
    arrays = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    network = ResNet20().eval()
    linear = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    layers = [layer for layer in linear if layer.bias is not None]  # a shortcut has none
    if len(found) != len(layers):
        raise ValueError(f"{len(found)} linear operators, ResNet-20 has {len(layers)}")
    with torch.no_grad():
        for node, layer in zip(found, layers, strict=True):
            for parameter, name in zip((layer.weight, layer.bias), node.input[1:], strict=True):
                value = torch.from_numpy(arrays[name].copy())
                if value.shape != parameter.shape:
                    raise ValueError(f"{name} has the shape {list(value.shape)}")
                parameter.copy_(value)
    return network


def check_same(network: ResNet20, images: np.ndarray, expected: np.ndarray) -> None:
    """Refuse a network whose outputs are not those expected.

    Raises:
        ValueError: they differ by more than :data:`TOLERANCE`.
    """
    with torch.inference_mode():
        got = network(torch.from_numpy(images)).numpy()
    worst = float(np.abs(got - expected).max())
    if not worst <= TOLERANCE:
        raise ValueError(f"the network in torch is {worst:g} from the ONNX network")


def simulation(
    tool: str,
    mode: str,
    network: ResNet20,
    calibration: np.ndarray,
    count: Count | None = None,
    stepwise: bool = False,
) -> Simulation:
    """The network as a tool converts it.

    Args:
        tool: a key of :data:`MODES`.
        mode: one of its modes.
        network: the ANN; it must not be used afterwards.
        calibration: images [n, 3, 32, 32].
        count: is told what neurons fire, [T, B, neurons]; a view. Not with ``stepwise``.
        stepwise: SpikingJelly runs the network once for each step.

    Raises:
        ValueError: there is no such tool or mode, or it left the network without neurons.
    """
    if mode not in MODES.get(tool, ()):
        raise ValueError(f"there is no mode {mode} of {tool}")
    if tool == "sinabs":
        return _sinabs(network, mode, count)
    return _spikingjelly(network, mode, calibration, count, stepwise)


def batches(images: np.ndarray) -> Iterator[Tensor]:
    """All images, a batch at a time."""
    for begin in range(0, len(images), BATCH):
        yield torch.from_numpy(images[begin : begin + BATCH])


def _spikingjelly(
    network: ResNet20, mode: str, calibration: np.ndarray, count: Count | None, stepwise: bool
) -> Simulation:
    from spikingjelly.activation_based import ann2snn, functional, neuron

    robust = mode == "robust"
    recipe = ann2snn.RateCodingRecipe(
        dataloader=[torch.from_numpy(calibration)],
        mode="99.9%" if robust else mode,
        channel_wise=robust,
        half_threshold=robust,
    )
    converted = ann2snn.Converter(recipe).convert(network).eval()
    functional.set_step_mode(converted, "s" if stepwise else "m")
    neurons = _neurons(converted, neuron.BaseNode)
    if count is not None:
        _watch(neurons, lambda fired: count(fired.flatten(2)))

    def run(images: Tensor, timesteps: int) -> Tensor:
        functional.reset_net(converted)
        if stepwise:
            return torch.stack([converted(images) for _ in range(timesteps)])
        return converted(images.expand(timesteps, *images.shape))

    return run


def _sinabs(network: ResNet20, mode: str, count: Count | None) -> Simulation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are absent
        import sinabs.layers
        from sinabs.activation import MultiSpike, SingleSpike
        from sinabs.from_torch import from_model

    fire = MultiSpike if mode == "multi" else SingleSpike
    converted = from_model(network, spike_fn=fire, batch_size=BATCH).spiking_model.eval()
    neurons = _neurons(converted, sinabs.layers.IAFSqueeze)

    def by_step(y: Tensor) -> Tensor:
        """Rows are time-minor: step t of image b is b * T + t."""
        return y.unflatten(0, (neurons[0].batch_size, -1)).flatten(2).transpose(0, 1)

    if count is not None:
        _watch(neurons, lambda fired: count(by_step(fired)))

    def run(images: Tensor, timesteps: int) -> Tensor:
        for layer in neurons:
            layer.reset_states()
            layer.batch_size = len(images)
        return by_step(converted(images.repeat_interleave(timesteps, dim=0)))

    return run


def _neurons(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    found = [module for module in network.modules() if isinstance(module, kind)]
    if not found:
        raise ValueError("the conversion left the network without spiking neurons")
    return found


def _watch(neurons: list[nn.Module], tell: Count) -> None:
    def hook(_module: nn.Module, _inputs: Any, fired: Tensor) -> None:
        tell(fired)

    for module in neurons:
        module.register_forward_hook(hook)
