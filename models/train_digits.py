"""Train the example network on scikit-learn's digits and export it with both torch exporters.

    pip install torch==2.13.0 && pip install '.[train]'
    python models/train_digits.py

Writes into this folder:

* ``digits_resnet_torchscript.onnx``: TorchScript exporter, BatchNormalization left unfolded
* ``digits_resnet_dynamo.onnx``: dynamo exporter, BatchNormalization folded by the exporter
* ``digits_calibration.npz``: 256 training images; ``digits_test.npz``: 360 test images and labels

Images are float32 in [0, 1], NCHW, 1 x 8 x 8. Seeds are fixed; another CPU or torch release may
still round differently and give slightly other weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

FOLDER = Path(__file__).resolve().parent
SEED = 0
EPOCHS = 40
BATCH = 64


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, channels_in, H, W] to [B, channels_out, H/stride, W/stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A stem, two residual blocks and a linear read-out: about 20 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block1 = ResidualBlock(16, 16, 1)
        self.block2 = ResidualBlock(16, 32, 2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 8, 8] to logits [B, 10]."""
        x = torch.relu(self.bn(self.stem(x)))
        x = self.block2(self.block1(x))
        return self.head(x.mean(dim=(2, 3)))


def train(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = EPOCHS
) -> None:
    """Adam with a cosine schedule; images shifted by up to one pixel as augmentation."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            dy, dx = (int(v) for v in torch.randint(-1, 2, (2,)))
            batch = torch.roll(images[rows], (dy, dx), (2, 3))
            loss = nn.functional.cross_entropy(model(batch), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def export(model: nn.Module, name: str) -> None:
    """Write ``<name>_torchscript.onnx`` and ``<name>_dynamo.onnx``."""
    example = torch.zeros(2, 1, 8, 8)
    torch.onnx.export(
        model,
        (example,),
        str(FOLDER / f"{name}_torchscript.onnx"),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNorm into Conv
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    path = FOLDER / f"{name}_dynamo.onnx"
    torch.onnx.export(
        model,
        (example,),
        str(path),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        external_data=False,
    )
    # The exporter records the source files' paths of the machine it ran on.
    exported = onnx.load(path)
    for node in exported.graph.node:
        kept = [p for p in node.metadata_props if not p.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(exported, path)


def images_and_labels() -> list[np.ndarray]:
    """Images [B, 1, 8, 8] to train on and to test with, then the labels of both."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    return train_test_split(
        images, digits.target, test_size=360, random_state=SEED, stratify=digits.target
    )


def main() -> None:
    """Train, export, and store the calibration and test images."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    x_train, x_test, y_train, y_test = images_and_labels()
    model = DigitsResNet()
    train(model, torch.from_numpy(x_train), torch.from_numpy(y_train))
    with torch.no_grad():
        correct = model(torch.from_numpy(x_test)).argmax(1).numpy() == y_test
    print(f"test accuracy {correct.mean():.2%} on {len(correct)} images")  # noqa: T201
    export(model, "digits_resnet")
    np.savez_compressed(FOLDER / "digits_calibration.npz", image=x_train[:256])
    np.savez_compressed(FOLDER / "digits_test.npz", image=x_test, labels=y_test)


if __name__ == "__main__":
    main()
