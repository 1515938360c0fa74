"""Train small classifiers of scikit-learn's digits without any BatchNormalization.

    pip install torch==2.13.0 && pip install '.[train]'
    python models/train_plain.py

Writes ``plain/*.onnx``: a convolutional network, a temporal one (the rows of an image are channels,
its columns time), a mixer and attention, with and without LayerNorm, each trained on pixels of
several scales. The metadata ``scale`` and ``shift`` of a model say what of: its input is
scale * pixel + shift for pixels in [0, 1], as in ``digits_test.npz``. ``docs/datafree.md`` has what
becomes of them without calibration data. Seeds are fixed; another CPU or torch release may round
differently.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

FOLDER = Path(__file__).resolve().parent / "plain"
SEED = 0
EPOCHS = 25
BATCH = 64
RATE = 3e-3
CLASSES = 10
#: scale and shift of the pixels.
UNIT, STANDARD, CENTRED = (1.0, 0.0), (2.6, -0.8), (2.0, -1.0)
SIXTEEN, BYTES = (16.0, 0.0), (255.0, 0.0)


class ConvNet(nn.Module):
    """Three convolutions and a linear read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 8, 8] to logits [B, 10]."""
        return self.head(self.body(x))


class TemporalNet(nn.Module):
    """Causal dilated convolutions around shortcuts, and the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(8, 24, 1)
        self.layers = nn.ModuleList([nn.Conv1d(24, 24, 3, dilation=2**k) for k in range(3)])
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map sequences [B, 8, 8], time last, to logits [B, 10]."""
        x = self.stem(x)
        for k, layer in enumerate(self.layers):
            x = x + torch.relu(layer(functional.pad(x, (2 * 2**k, 0))))
        return self.head(x.mean(2))


def _norm(width: int, normalised: bool) -> nn.Module:
    return nn.LayerNorm(width) if normalised else nn.Identity()


class Mixer(nn.Module):
    """A layer across patches and a layer across features, with shortcuts, twice."""

    def __init__(self, normalised: bool, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 2, 2)
        self.norms = nn.ModuleList([_norm(width, normalised) for _ in range(5)])
        self.across = nn.ModuleList([self._mlp(16) for _ in range(2)])
        self.along = nn.ModuleList([self._mlp(width) for _ in range(2)])
        self.head = nn.Linear(width, CLASSES)

    @staticmethod
    def _mlp(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 8, 8] to logits [B, 10]."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        for k in range(2):
            x = x + self.across[k](self.norms[2 * k](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.along[k](self.norms[2 * k + 1](x))
        return self.head(self.norms[4](x).mean(1))


class Attention(nn.Module):
    """One block of self-attention over the rows of an image, learned positions added."""

    def __init__(self, normalised: bool, width: int = 24, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.stem = nn.Linear(8, width)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 8, width))
        self.norm1, self.norm2 = _norm(width, normalised), _norm(width, normalised)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows [B, 8, 8] to logits [B, 10]."""
        x = self.stem(x) + self.positions
        q, k, v = (self._split(part) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        x = x + self.down(torch.relu(self.up(self.norm2(x))))
        return self.head(x.mean(1))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def train(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> None:
    """Adam with a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            loss = functional.cross_entropy(model(x[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    model.eval()


def export(
    model: nn.Module, example: torch.Tensor, path: Path, pixels: tuple[float, float]
) -> None:
    """Write an ONNX file that says what it was trained on."""
    torch.onnx.export(
        model,
        (example,),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
    )
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {"scale": str(pixels[0]), "shift": str(pixels[1])})
    onnx.save(written, path)


def main() -> None:
    """Train and export them all."""
    torch.use_deterministic_algorithms(True)
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=360, random_state=SEED, stratify=digits.target
    )
    kinds = {
        "cnn": (ConvNet, True, (UNIT, STANDARD, BYTES)),
        "tcn": (TemporalNet, False, (UNIT, STANDARD, SIXTEEN)),
        "mixer": (lambda: Mixer(normalised=False), True, (CENTRED, SIXTEEN)),
        "mixer_layernorm": (lambda: Mixer(normalised=True), True, (UNIT,)),
        "attention": (lambda: Attention(normalised=False), False, (STANDARD, SIXTEEN)),
        "attention_layernorm": (lambda: Attention(normalised=True), False, (UNIT,)),
    }
    FOLDER.mkdir(exist_ok=True)
    for kind, (make, is_image, scales) in kinds.items():
        for pixels in scales:
            torch.manual_seed(SEED)
            model = make()
            fed = [pixels[0] * torch.from_numpy(x) + pixels[1] for x in (x_train, x_test)]
            fed = [x[:, None] if is_image else x for x in fed]
            train(model, fed[0], torch.from_numpy(y_train))
            with torch.no_grad():
                correct = model(fed[1]).argmax(1).numpy() == y_test
            path = FOLDER / f"{kind}_{pixels[0]:g}.onnx"
            print(f"{path.name}: test accuracy {correct.mean():.2%}")  # noqa: T201
            export(model, fed[0][:2], path, pixels)


if __name__ == "__main__":
    main()
