"""Made-up samples, for when there are no real ones.

What a sample looks like is said per input by a :class:`Look`:

1. Floats are ``centre + unit * scale * (pattern + offset)``. The pattern has mean 0 and mean square
   1: independent standard normal values ("noise"), or for an input of rank 4 dead leaves
   ("leaves"): an image in which 3 to 60 ellipses and rectangles of random size, place, direction
   and colour cover each other. Like photographs it has flat regions, edges at all scales, and
   channels that vary together. The radii are drawn log-uniformly from 1/20 to 1/2 of the image.
   Four fifths of a colour's variance are common to all channels. (Dead leaves: Matheron; as a
   model of natural images: Lee, Mumford, Huang, 2001.) Where the scale is known to some octaves
   only, the samples' scales are spread evenly over these. "any" is for inputs of which nothing is
   known: one half of rank 4 are dead leaves, all others noise; to each sample a standard
   normal value is added, and both are divided by the root of 2.
2. The channels of an image are the last axis where that is shorter than the second, else the
   second.
3. An image of more than 256 pixels along an axis is drawn smaller and each pixel repeated.
4. Integers are drawn from ``rows`` of them, from ``low`` on; as "leaves", pixels of dead leaves
   that take each of them about as often. Booleans are integers.
5. A sample depends on the seed and its number only, not on the batches that are asked for.
6. Of a fixed batch that is larger than the number of samples asked for, the further ones repeat
   the first: what it takes to draw them is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .base import Feed, InputSpec, Samples, fixed_batch, inputs_without_batch

_MOST_PIXELS = 256
_FEWEST_LEAVES, _MOST_LEAVES = 3, 60
_SMALLEST, _LARGEST = 1 / 20, 1 / 2
_LONGEST = 2.0
#: Samples that show what the least scale makes, and the largest.
_ENDS = 16
_COMMON = 0.8
#: Multiples of it, less their whole parts, fill [0, 1) evenly whatever their number.
_GOLDEN = (5**0.5 - 1) / 2
#: The normal distribution function is about 1 / (1 + exp(-1.702 x)).
_LOGISTIC = 1.702
#: Length of dynamic dimensions other than the batch.
_FREE_DIM = 32


@dataclass(frozen=True, eq=False)
class Frame:
    """The centre and the unit of what an input holds.

    Attributes:
        centre: float32, of a shape that goes with the samples (batch axis first).
        unit: likewise, finite and not 0.
    """

    centre: np.ndarray = field(default_factory=lambda: np.zeros((), np.float32))
    unit: np.ndarray = field(default_factory=lambda: np.ones((), np.float32))

    @property
    def is_plain(self) -> bool:
        """Whether it changes nothing."""
        return not self.centre.any() and bool((self.unit == 1).all())

    def of(self, values: np.ndarray) -> np.ndarray:
        """What is ``values`` in this frame, float32."""
        return values if self.is_plain else self.centre + self.unit * values


@dataclass(frozen=True)
class Look:
    """What the made-up values of one input look like.

    Attributes:
        pattern: "noise", "leaves" or "any".
        scale: root mean square of floats around their mean; a finite number above 0.
        offset: mean of floats in units of ``scale``.
        octaves: below ``scale`` over which the scales of the samples are spread, at least 0.
        frame: in what the floats are measured.
        low: lowest integer.
        rows: number of integers that may be drawn, at least 1.
    """

    pattern: str = "noise"
    scale: float = 1.0
    offset: float = 0.0
    octaves: float = 0.0
    frame: Frame = Frame()
    low: int = 0
    rows: int = 2

    def scaled(self, pattern: np.ndarray) -> np.ndarray:
        """Rule 1 for patterns of samples (float32, batch axis first), all of scale ``scale``."""
        with np.errstate(over="ignore"):
            return self.frame.of(np.float32(self.scale) * (pattern + np.float32(self.offset)))

    def of_sample(self, number: int) -> Look:
        """That of one sample, where they are spread over octaves: evenly, in any order."""
        if not self.octaves:
            return self
        part = number * _GOLDEN % 1
        return replace(self, scale=self.scale * 2.0 ** (-self.octaves * part), octaves=0.0)


class SyntheticSamples(Samples):
    """Made-up samples.

    Args:
        specs: the inputs.
        count: number of samples; where the model fixes a batch, as many as fill batches.
        seed: the same seed gives the same samples.
        looks: by input; one that is not here gets standard normal floats, or integers from {0, 1}.
        text: what they look like, for the samples' origin.
    """

    synthetic = True

    def __init__(
        self,
        specs: list[InputSpec],
        count: int,
        seed: int,
        looks: Mapping[str, Look] | None = None,
        text: str = "",
    ) -> None:
        self.unbatched = inputs_without_batch(specs)
        self.fixed_batch = fixed_batch(specs, self.unbatched)
        self._drawn = count
        if self.fixed_batch:
            count = max(count // self.fixed_batch, 1) * self.fixed_batch
        self.count = count
        self.origin = f"{count} synthetic samples, seed {seed}"
        if text:
            self.origin += f": {text}"
        self._specs, self._seed, self._text = specs, seed, text
        self._looks = {spec.name: (looks or {}).get(spec.name, Look()) for spec in specs}

    def first(self, most: int) -> SyntheticSamples:
        """The first of them, at most so many; where the model fixes a batch, what fills batches."""
        count = min(most, self._drawn)
        return SyntheticSamples(self._specs, count, self._seed, self._looks, self._text)

    def ends(self) -> tuple[Samples, Samples] | None:
        """Those of all scales that the samples might have, of inputs of which nothing is known."""
        if not any(look.pattern == "any" for look in self._looks.values()):
            return None

        def one(octaves: float) -> SyntheticSamples:
            looks = {
                name: replace(
                    look, scale=look.scale * 2.0 ** (-octaves * look.octaves), octaves=0.0
                )
                for name, look in self._looks.items()
            }
            return SyntheticSamples(self._specs, _ENDS, self._seed, looks)

        return one(1.0), one(0.0)

    def standard_normal(self, why: str) -> SyntheticSamples:
        """As many in which inputs of which nothing is known are standard normal in their frames."""
        looks = {
            name: Look(frame=look.frame) if look.pattern == "any" else look
            for name, look in self._looks.items()
        }
        text = f"not matched to the network, whose {why}"
        return SyntheticSamples(self._specs, self._drawn, self._seed, looks, text)

    def _blocks(self, size: int) -> Iterator[Feed]:
        for start in range(0, self.count, size):
            numbers = range(start, min(start + size, self.count))
            yield {spec.name: self._draw(i, spec, numbers) for i, spec in enumerate(self._specs)}

    def _draw(self, place: int, spec: InputSpec, numbers: range) -> np.ndarray:
        own = spec.shape[1:]
        if spec.name in self.unbatched:
            own = (1 if spec.shape[:1] == (None,) else spec.shape[0], *own) if spec.shape else ()
        shape = tuple(_FREE_DIM if dim is None else dim for dim in own)
        look = self._looks[spec.name]
        kinds = [number % self._drawn for number in numbers]
        rows = {kind: row for row, kind in enumerate(dict.fromkeys(kinds))}
        block = np.empty((len(rows), *shape), spec.dtype)
        for kind, row in rows.items():
            rng = np.random.default_rng((self._seed, place, kind))
            block[row] = _draw_one(rng, look.of_sample(kind), shape, spec.dtype.kind == "f")
        return block if len(rows) == len(kinds) else block[[rows[kind] for kind in kinds]]


def _draw_one(
    rng: np.random.Generator, look: Look, shape: tuple[int, ...], floats: bool
) -> np.ndarray:
    any_pattern = look.pattern == "any"
    if look.pattern == "leaves" or (any_pattern and len(shape) == 3 and rng.random() < 0.5):
        values = draw_leaves(rng, shape)
    elif floats:
        values = rng.standard_normal(shape, np.float32)
    else:
        return rng.integers(look.low, look.low + look.rows, shape)
    if any_pattern:
        values = np.sqrt(np.float32(0.5)) * (values + rng.standard_normal(dtype=np.float32))
    if floats:
        one: np.ndarray = look.scaled(values[None])[0]
        return one
    share = 1 / (1 + np.exp(-_LOGISTIC * values))
    return look.low + np.minimum(look.rows * share, look.rows - 1).astype(np.int64)


def draw_leaves(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A dead leaves image, float32 of ``shape`` (three dimensions); rules 1 to 3."""
    last = shape[2] < shape[0]
    channels, height, width = (shape[2], *shape[:2]) if last else shape
    repeats = [max(-(-pixels // _MOST_PIXELS), 1) for pixels in (height, width)]
    drawn = [-(-pixels // n) for pixels, n in zip((height, width), repeats, strict=True)]
    image = _draw_small(rng, channels, drawn[0], drawn[1])
    for axis, n in enumerate(repeats, start=1):
        image = np.repeat(image, n, axis=axis) if n > 1 else image
    image = image[:, :height, :width]
    return np.moveaxis(image, 0, -1) if last else image


def _draw_small(rng: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    image = np.empty((channels, height, width), np.float32)
    image[...] = _colour(rng, channels)
    size = np.sqrt(height * width)
    for _ in range(rng.integers(_FEWEST_LEAVES, _MOST_LEAVES + 1)):
        radius = size * np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST)))
        stretch = np.exp(rng.uniform(-1, 1) * np.log(_LONGEST))
        cos, sin = np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        is_ellipse, colour = rng.random() < 0.5, _colour(rng, channels)
        reach = radius * max(stretch, 1 / stretch) * np.sqrt(2)  # no leaf goes farther
        rows, columns = _window(y, reach, height), _window(x, reach, width)
        dy = np.arange(rows.start, rows.stop)[:, None] - y
        dx = np.arange(columns.start, columns.stop)[None, :] - x
        along, across = (dx * cos + dy * sin) / stretch, (dy * cos - dx * sin) * stretch
        far = np.hypot(along, across) if is_ellipse else np.maximum(np.abs(along), np.abs(across))
        np.copyto(image[:, rows, columns], colour, where=far < radius)
    return image


def _colour(rng: np.random.Generator, channels: int) -> np.ndarray:
    """[channels, 1, 1], each of variance 1."""
    common, own = rng.standard_normal(1), rng.standard_normal(channels)
    colour: np.ndarray = np.sqrt(_COMMON) * common + np.sqrt(1 - _COMMON) * own
    return colour.astype(np.float32).reshape(-1, 1, 1)


def _window(centre: float, reach: float, length: int) -> slice:
    return slice(max(int(centre - reach), 0), min(int(centre + reach) + 1, length))
