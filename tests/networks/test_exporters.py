"""What PyTorch's exporters write, compiled whole: every activation becomes a neuron, every linear
operator but those that read the network's own input gets spikes, and the outputs stay close.

Random weights; each network once from TorchScript and once from the dynamo exporter. Skips where
PyTorch (and onnxscript, which its dynamo exporter needs) is not installed.
"""

from __future__ import annotations

import importlib.util
import io
from collections import Counter

import numpy as np
import onnx
import pytest
from snn_compile.compiler import CompileOptions, compile_model

if not all(importlib.util.find_spec(package) for package in ("torch", "onnxscript")):
    pytest.skip("needs the packages torch and onnxscript", allow_module_level=True)

import torch
from torch import nn
from torch.nn import functional

# PyTorch announces the end of its TorchScript exporter, and of parts of itself, at each use.
pytestmark = pytest.mark.filterwarnings("ignore::Warning")

BOTH = pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])


def exported(module, inputs, dynamo, names=("x",)):
    """The module in inference as ONNX, with a dynamic batch axis."""
    module.eval()
    stream = io.BytesIO()
    if dynamo:
        axes = {"dynamic_shapes": tuple({0: torch.export.Dim("N")} for _ in inputs)}
    else:
        axes = {"dynamic_axes": {name: {0: "N"} for name in names}}
    torch.onnx.export(
        module, inputs, stream, dynamo=dynamo, input_names=list(names), verbose=False, **axes
    )
    return onnx.load_model_from_string(stream.getvalue())


def compiled(module, tmp_path, dynamo, *shapes, encode_input=False):
    """The report on a module compiled with the samples that it is then compared on."""
    torch.manual_seed(0)
    module = module()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as if it were trained
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
            nn.init.normal_(layer.running_mean, 0, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    inputs = tuple(torch.randn(16, *shape) for shape in shapes)
    names = ("x", "z")[: len(shapes)]
    model = exported(module, tuple(value[:2] for value in inputs), dynamo, names)
    np.savez(
        tmp_path / "samples.npz",
        **{name: value.numpy() for name, value in zip(names, inputs, strict=True)},
    )
    options = CompileOptions(encode_input=encode_input)
    result = compile_model(model, tmp_path / "samples.npz", options)
    onnx.checker.check_model(result.model, full_check=True)
    assert [o.name for o in result.model.graph.output] == [o.name for o in model.graph.output]
    return result.report


def became(report):
    """Number of lines by operator and status."""
    lines = Counter(f"{line.op} {line.status}" for line in report.coverage.lines)
    return dict(lines)


def error(report):
    return max(output.relative_l2 for output in report.verification.outputs)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(y)))


def residual():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        Block(8),
        Block(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(8, 5),
    )


@BOTH
def test_residual_network_with_batch_normalization(tmp_path, dynamo):
    report = compiled(residual, tmp_path, dynamo, (3, 8, 8))
    assert became(report) == {
        "Clip converted": 1,
        "Relu converted": 4,
        "Relu shortcut": 1,  # the first block adds what MaxPool makes of spikes
        "Conv kept": 1,
        "Conv converted": 4,
        "Gemm encoded": 1,
    }
    assert error(report) < 0.05


class SqueezeExcitation(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x):
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.expand(functional.relu(self.reduce(pooled))))


def separable():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        SqueezeExcitation(8),
        nn.Conv2d(8, 12, 1),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 3, 1, 1, groups=12),
        nn.BatchNorm2d(12),
        nn.SiLU(),
        nn.Conv2d(12, 12, 1),
        nn.Mish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


@BOTH
def test_depthwise_separable_network_with_squeeze_and_excitation(tmp_path, dynamo):
    report = compiled(separable, tmp_path, dynamo, (3, 16, 16), encode_input=True)
    assert became(report) == {
        "HardSwish converted": 2,
        "HardSigmoid converted": 1,
        "Relu converted": 1,
        "Swish converted": 1,
        "Mish converted": 1,
        "Conv encoded": 4,
        "Conv converted": 3,
        "Gemm encoded": 1,
    }
    assert report.coverage.spiking_share == 1
    assert error(report) < 0.05


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


@BOTH
def test_transformer_encoder_layer(tmp_path, dynamo):
    report = compiled(Transformer, tmp_path, dynamo, (5, 16), encode_input=True)
    assert became(report) == {
        "Gelu converted": 1,
        "Softmax encoded": 1,
        "LayerNormalization encoded": 2,
        "MatMul encoded": 4,
        "MatMul converted": 1,
        "Gemm encoded": 2,
    }
    assert report.coverage.spiking_share == 1
    assert error(report) < 0.1


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        y, weights = self.attention(x, x, x)
        return self.head(functional.elu(y)), weights


@BOTH
def test_multi_head_attention_with_its_weights_as_an_output(tmp_path, dynamo):
    report = compiled(Attention, tmp_path, dynamo, (5, 16))
    assert became(report) == {
        "Elu converted": 1,
        "Softmax encoded": 1,
        "MatMul kept": 1,
        "MatMul encoded": 2,
        "MatMul converted": 1,
        "Gemm encoded": 1,
    }
    assert error(report) < 0.1


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.hidden, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.recurrent(x)
        return self.head(torch.tanh(self.hidden(y[:, -1])))


@BOTH
def test_classifier_behind_an_lstm(tmp_path, dynamo):
    report = compiled(Recurrent, tmp_path, dynamo, (5, 6))
    assert became(report) == {
        "LSTM kept": 1,
        "Tanh converted": 1,
        "Gemm encoded": 1,
        "Gemm converted": 1,
    }
    assert error(report) < 0.05


class UNet(nn.Module):
    def __init__(self, transposed):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(0.1))
        self.low = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8))
        scaled = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 6, 1))
        self.up = nn.ConvTranspose2d(8, 6, 2, 2) if transposed else scaled
        self.out = nn.Sequential(nn.Conv2d(12, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x):
        high = self.down(x)
        low = self.up(self.low(functional.max_pool2d(high, 2)))
        return torch.sigmoid(self.out(torch.cat([high, low], 1)))


@BOTH
@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "bilinear"])
def test_segmentation_network(tmp_path, dynamo, transposed):
    report = compiled(lambda: UNet(transposed), tmp_path, dynamo, (3, 8, 8))
    up = {"ConvTranspose converted": 1, "Conv encoded": 1} if transposed else {"Conv encoded": 2}
    assert became(report) == {
        "LeakyRelu converted": 1,
        "PRelu converted": 1,
        "Relu converted": 1,
        "Sigmoid converted": 1,
        "Conv kept": 1,
        "Conv converted": 2,
        **up,
    }
    assert error(report) < 0.05


class ConvNext(nn.Module):
    def __init__(self, approximate):
        super().__init__()
        self.approximate = approximate
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.expand, self.reduce = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.expand(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        y = self.reduce(functional.gelu(y, approximate=self.approximate)) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


@BOTH
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_convnext_block_with_channels_last(tmp_path, dynamo, approximate):
    report = compiled(lambda: ConvNext(approximate), tmp_path, dynamo, (3, 16, 16))
    assert became(report) == {
        "Gelu converted": 1,
        "LayerNormalization encoded": 1,
        "Conv kept": 1,
        "Conv encoded": 1,
        "MatMul encoded": 1,
        "MatMul converted": 1,
        "Gemm encoded": 1,
    }
    assert error(report) < 0.05


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 14, 1)

    def forward(self, x):
        y = self.head(functional.silu(self.conv(x)))
        count, _, height, width = y.shape
        y = y.view(count, 2, 7, height, width).permute(0, 1, 3, 4, 2)
        centre, size, score = torch.split(y.sigmoid(), (2, 2, 3), -1)
        boxes = torch.cat([centre * 2 - 0.5, (size * 2) ** 2, score], -1).reshape(count, -1, 7)
        return boxes, boxes[..., 4].topk(5, 1)[0]


@BOTH
def test_detection_head(tmp_path, dynamo):
    report = compiled(Detector, tmp_path, dynamo, (3, 8, 8))
    assert became(report) == {
        "Swish converted": 1,
        "Sigmoid converted": 1,
        "Conv kept": 1,
        "Conv converted": 1,
    }
    assert error(report) < 0.05


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.product, self.joined = nn.Linear(8, 3), nn.Linear(16, 2)

    def forward(self, x, z):
        left, right = functional.softplus(self.left(x)), functional.selu(self.right(z))
        return self.product(left * right), self.joined(torch.cat([left, right], -1))


@BOTH
def test_two_inputs_and_two_outputs(tmp_path, dynamo):
    report = compiled(TwoInputs, tmp_path, dynamo, (6,), (4,))
    assert became(report) == {
        "Softplus converted": 1,
        "Selu converted": 1,
        "Softplus shortcut": 1,
        "Selu shortcut": 1,
        "Gemm kept": 2,
        "Gemm encoded": 1,
        "Gemm converted": 1,
    }
    assert len(report.verification.outputs) == 2
    assert error(report) < 0.05


class Branches(nn.Module):
    """Control flow as each exporter wants it."""

    def __init__(self, dynamo):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(6, 8))
        self.head = nn.Linear(8, 3)
        self.scripted = None if dynamo else torch.jit.script(_branch)

    def forward(self, x):
        if self.scripted is not None:
            return self.head(self.scripted(x, self.one, self.two))
        inputs = (x, self.one, self.two)
        return self.head(torch.cond(x.sum() > 0, _positive, _negative, inputs))


def _positive(x, one, two):  # noqa: ARG001 - both branches take the same
    return torch.relu(x @ one)


def _negative(x, one, two):  # noqa: ARG001 - both branches take the same
    return torch.tanh(x @ two)


def _branch(x: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ one) if bool(x.sum() > 0) else torch.tanh(x @ two)


@BOTH
def test_control_flow(tmp_path, dynamo):
    report = compiled(lambda: Branches(dynamo), tmp_path, dynamo, (6,), encode_input=True)
    assert became(report) == {
        "Relu converted": 1,
        "Tanh converted": 1,
        "MatMul encoded": 2,
        "Gemm converted": 1,
    }
    assert error(report) < 0.05


class Activations(nn.Module):
    """Each activation between the same two linear layers."""

    def __init__(self, activations):
        super().__init__()
        self.activations = nn.ModuleList(activations)
        self.linear = nn.ModuleList([nn.Linear(8, 8) for _ in activations])
        self.heads = nn.ModuleList([nn.Linear(8, 4) for _ in activations])

    def forward(self, x):
        layers = zip(self.linear, self.activations, self.heads, strict=True)
        return torch.stack([head(act(linear(x))) for linear, act, head in layers], 1)


def every_activation():
    return Activations(
        [
            *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.PReLU(), nn.ELU(0.7), nn.SELU()),
            *(nn.CELU(0.8), nn.Softplus(), nn.Softplus(2.0), nn.Softsign(), nn.Sigmoid()),
            *(nn.Tanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.SiLU(), nn.Mish(), nn.GELU()),
            *(nn.GELU(approximate="tanh"), nn.Hardtanh(-0.5, 0.7), nn.Hardshrink(0.3)),
            *(nn.Softshrink(0.3), nn.Tanhshrink()),
        ]
    )


@BOTH
def test_every_activation(tmp_path, dynamo):
    report = compiled(every_activation, tmp_path, dynamo, (8,))
    activations = [line for line in report.coverage.lines if line.kind == "activation"]
    assert {line.status for line in activations} == {"converted"}
    assert len(activations) >= 22
    assert error(report) < 0.05
