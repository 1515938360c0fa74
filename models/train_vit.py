"""Train a small vision transformer on scikit-learn's digits and export it with both exporters.

    pip install torch==2.13.0 && pip install '.[train]'
    python models/train_vit.py

Writes ``digits_vit_torchscript.onnx`` and ``digits_vit_dynamo.onnx`` into this folder. Images, how
they are split, and training are those of ``train_digits.py``. Seeds are fixed; another CPU or torch
release may still round differently and give slightly other weights.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from train_digits import SEED, export, images_and_labels, train

EPOCHS = 150
WIDTH = 32
HEADS = 4
BLOCKS = 2
PATCH = 2
TOKENS = (8 // PATCH) ** 2
CLASSES = 10


class Block(nn.Module):
    """Self-attention and two linear layers with GELU, each behind LayerNorm, with shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens [B, TOKENS, WIDTH] to as many."""
        q, k, v = (self._heads(part) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


class DigitsViT(nn.Module):
    """Patches of 2 x 2 pixels, learned positions, two blocks, and the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(0.1 * torch.randn(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, 8, 8] to logits [B, 10]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


def main() -> None:
    """Train and export."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    x_train, x_test, y_train, y_test = images_and_labels()
    model = DigitsViT()
    train(model, torch.from_numpy(x_train), torch.from_numpy(y_train), EPOCHS)
    with torch.no_grad():
        correct = model(torch.from_numpy(x_test)).argmax(1).numpy() == y_test
    print(f"test accuracy {correct.mean():.2%} on {len(correct)} images")  # noqa: T201
    export(model, "digits_vit")


if __name__ == "__main__":
    main()
