"""How pixels become the values that a network is fed.

1. A float input gets (pixel / pixel_scale - mean) / std, in float32 and in this order; pixels are 0
   to 255, mean and std those of each channel in the order in which they are fed. How much a network
   was trained with is not in its file, and a wrong guess costs accuracy without a word; so without
   a preset or a pixel scale the images are refused.
2. An integer input gets the pixels as they are.
3. Layout, size and number of channels are those of the input's shape; grey images of networks for
   colour become three equal channels, colour images of networks for grey their luma (ITU-R 601).
4. Images of another size are resized (bilinear, antialiased): "crop" takes the largest part in the
   middle that has the shape wanted, "stretch" all.

Only the standard library is imported with this file: ``--help`` reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import UsageError

NCHW, NHWC = "nchw", "nhwc"
RGB, BGR = "rgb", "bgr"
CROP, STRETCH = "crop", "stretch"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What the user may say of images; what is None depends on the preset and the input.

    Attributes:
        preset: "imagenet": / 255, mean and standard deviation of ImageNet, RGB; "tf": / 127.5 - 1,
            RGB; "caffe": mean of ImageNet subtracted, BGR, no scale. Other options override it.
        mean: subtracted after the scale, one number or one per channel.
        std: divided by after that.
        pixel_scale: what pixels are divided by; 255 gives 0 to 1.
        channel_order: "rgb" or "bgr".
        layout: "nchw" or "nhwc".
        size: (height, width), or one number for both.
        resize: "crop" or "stretch".
    """

    preset: str | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    pixel_scale: float | None = None
    channel_order: str | None = None
    layout: str | None = None
    size: int | Sequence[int] | None = None
    resize: str | None = None

    @property
    def given(self) -> list[str]:
        """Names of those that are given, as the command line has them."""
        named = [one.name for one in fields(self) if getattr(self, one.name) is not None]
        return ["--" + name.replace("_", "-") for name in named]


#: What each preset stands for.
PRESETS = {
    "imagenet": ImageOptions(
        pixel_scale=255.0,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        channel_order=RGB,
    ),
    "tf": ImageOptions(pixel_scale=127.5, mean=1.0, std=1.0, channel_order=RGB),
    "caffe": ImageOptions(
        pixel_scale=1.0, mean=(103.939, 116.779, 123.68), std=1.0, channel_order=BGR
    ),
}


@dataclass(frozen=True)
class Pixels:
    """How images become the values of one input.

    Attributes:
        pixel_scale: rule 1; 1 for integers.
        mean: one per channel, likewise 0.
        std: one per channel, likewise 1.
        channel_order: "rgb", "bgr" or "grey".
        layout: "nchw" or "nhwc"; "nhw" of grey images without an axis for the channel.
        size: (height, width); None: as the images are.
        resize: rule 4.
    """

    pixel_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str
    layout: str
    size: tuple[int, int] | None
    resize: str

    @property
    def channels(self) -> int:
        """1 or 3."""
        return len(self.mean)

    def as_json(self) -> dict[str, Any]:
        """For reports and provenance."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def resolve(
    options: ImageOptions, name: str, shape: Sequence[int | None], is_float: bool
) -> Pixels:
    """What images become for an input.

    Args:
        options: as the user gives them.
        name: of the input.
        shape: of the input, the batch axis first; None where dynamic.
        is_float: whether it holds floats; otherwise integers that a pixel fits into.

    Raises:
        UsageError: the options are wrong, do not fit the input, or are too few.
    """
    _check(options)
    layout = _layout(options.layout, name, shape)
    channel_axis = {NCHW: 1, NHWC: 3}.get(layout)
    channels = 1 if channel_axis is None else shape[channel_axis] or 3
    if not is_float:
        values = [one for one in ("preset", "mean", "std", "pixel_scale") if getattr(options, one)]
        if values:
            raise UsageError(
                f"--{values[0].replace('_', '-')}: the input '{name}' takes pixels as they are, it "
                "holds integers; leave it out"
            )
        options = replace(options, pixel_scale=1.0)
    chosen = _with_preset(options)
    if chosen.pixel_scale is None:
        raise UsageError(
            f"how pixels become the values of '{name}' is not in the model: give --preset imagenet "
            "(PyTorch), tf (-1 to 1) or caffe, or --pixel-scale (255 for values from 0 to 1) with "
            "the --mean and --std that the network was trained with, if any"
        )
    order = "grey" if channels == 1 else chosen.channel_order or RGB
    if channels == 1 and options.channel_order:
        raise UsageError(f"--channel-order: '{name}' has a single channel; leave it out")
    return Pixels(
        float(chosen.pixel_scale),
        _per_channel("--mean", 0.0 if chosen.mean is None else chosen.mean, channels, options),
        _per_channel("--std", 1.0 if chosen.std is None else chosen.std, channels, options),
        order,
        layout,
        _size(options.size, name, layout, shape),
        options.resize or CROP,
    )


def recorded(text: str) -> ImageOptions | None:
    """The options that give what :meth:`Pixels.as_json` says; None if the text is none."""
    try:
        found = json.loads(text)
        known = {one.name: found[one.name] for one in fields(Pixels)}
        options = ImageOptions(**known)
        if options.channel_order not in (RGB, BGR):
            options = replace(options, channel_order=None)
        if options.layout not in (NCHW, NHWC):
            options = replace(options, layout=None)
        _check(options)
    except (ValueError, TypeError, KeyError, UsageError):
        return None
    return options


def _with_preset(options: ImageOptions) -> ImageOptions:
    if options.preset is None:
        return options
    own = PRESETS[options.preset]
    missing = {
        one.name: getattr(own, one.name)
        for one in fields(own)
        if getattr(options, one.name) is None
    }
    return replace(options, **missing)


def _check(options: ImageOptions) -> None:
    choices = {
        "preset": tuple(PRESETS),
        "channel_order": (RGB, BGR),
        "layout": (NCHW, NHWC),
        "resize": (CROP, STRETCH),
    }
    for name, known in choices.items():
        value = getattr(options, name)
        if value is not None and value not in known:
            raise UsageError(
                f"--{name.replace('_', '-')} {value!r} cannot be used; give "
                f"{', '.join(known[:-1])} or {known[-1]}"
            )
    for name in ("mean", "std", "pixel_scale"):
        value = getattr(options, name)
        numbers = [] if value is None else list(_listed(value))
        positive = name != "mean"
        if not all(_is_finite(one) and (one > 0 or not positive) for one in numbers):
            what = "finite numbers above 0" if positive else "finite numbers"
            raise UsageError(f"--{name.replace('_', '-')} {value!r} cannot be used; give {what}")
    if options.size is not None:
        sides = _listed(options.size)
        whole = all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in sides)
        if not whole or len(sides) not in (1, 2):
            raise UsageError(
                f"--size {options.size!r} cannot be used; give the height and the width in pixels"
            )


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _per_channel(
    flag: str, value: float | Sequence[float], channels: int, options: ImageOptions
) -> tuple[float, ...]:
    numbers = [float(one) for one in _listed(value)]
    if len(numbers) not in (1, channels):
        given = flag if flag in options.given else f"--preset {options.preset}"
        raise UsageError(
            f"{given}: {len(numbers)} numbers for {channels} channels; give one, or one for each"
        )
    return tuple(numbers * (channels // len(numbers)))


def _layout(asked: str | None, name: str, shape: Sequence[int | None]) -> str:
    if len(shape) == 3 and shape[0] in (None, 1):
        if asked is not None:
            raise UsageError(f"--layout: the input '{name}' has no axis for channels; leave it out")
        return "nhw"
    if len(shape) != 4:
        wanted = ["?" if dim is None else dim for dim in shape]
        raise UsageError(
            f"the input '{name}' {wanted} is no image; images are fed to inputs of [batch, "
            "channels, height, width] or [batch, height, width, channels]: give arrays"
        )
    fitting = [one for one, axis in ((NCHW, 1), (NHWC, 3)) if shape[axis] in (1, 3)]
    if asked is None:
        if len(fitting) == 1:
            return fitting[0]
        wanted = ["?" if dim is None else dim for dim in shape]
        raise UsageError(
            f"the shape {wanted} of the input '{name}' does not say where its 1 or 3 channels are; "
            "give --layout nchw or nhwc, or arrays where there are others"
        )
    if shape[1 if asked == NCHW else 3] not in (None, 1, 3):
        wanted = ["?" if dim is None else dim for dim in shape]
        raise UsageError(f"--layout {asked}: the input '{name}' {wanted} has no 1 or 3 channels so")
    return asked


def _size(
    asked: int | Sequence[int] | None, name: str, layout: str, shape: Sequence[int | None]
) -> tuple[int, int] | None:
    height, width = shape[2:4] if layout == NCHW else shape[1:3]
    if asked is None:
        return None if height is None or width is None else (height, width)
    sides = _listed(asked)
    size = (int(sides[0]), int(sides[-1]))
    if height not in (None, size[0]) or width not in (None, size[1]):
        raise UsageError(
            f"--size {size[0]}x{size[1]}: the input '{name}' is {height or '?'}x{width or '?'}; "
            "leave it out"
        )
    return size
