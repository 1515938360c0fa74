"""The options of both commands for folders of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .image_options import BGR, CROP, NCHW, NHWC, PRESETS, RGB, STRETCH, ImageOptions

F = TypeVar("F", bound=Callable[..., Any])

#: Parameters in the order of the help, which has them in a group of their own.
IMAGES = "Images"
IMAGE_FLAGS = (
    *("preset", "mean", "std", "pixel_scale"),
    *("channel_order", "layout", "size", "resize"),
)


def _numbers(
    _: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """One number, or several with commas between them."""
    try:
        return None if text is None else tuple(float(item) for item in text.split(","))
    except ValueError:
        message = f"{text!r}: give a number, or one per channel, such as 0.485,0.456,0.406"
        raise click.BadParameter(message, param=parameter) from None


def _size(_: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Height and width with an x between them, or one number for both."""
    try:
        return None if text is None else tuple(int(item) for item in text.lower().split("x"))
    except ValueError:
        message = f"{text!r}: give one number, or the height and the width, such as 360x480"
        raise click.BadParameter(message, param=parameter) from None


def with_image_options(command: F) -> F:
    """A command that gets ``images``: :class:`ImageOptions`, or None where none is given."""

    @functools.wraps(command)
    def taking(*arguments: Any, **others: Any) -> Any:
        options = ImageOptions(**{name: others.pop(name) for name in IMAGE_FLAGS})
        return command(*arguments, images=options if options.given else None, **others)

    known: dict[str, dict[str, Any]] = {
        "preset": {
            "type": click.Choice(list(PRESETS)),
            "metavar": "NAME",
            "help": "How pixels become values: imagenet, tf or caffe",
        },
        "mean": {
            "callback": _numbers,
            "metavar": "M,M,M",
            "help": "Subtracted after the scale: of all channels, or each",
        },
        "std": {"callback": _numbers, "metavar": "S,S,S", "help": "Divided by after that"},
        "pixel_scale": {
            "type": float,
            "metavar": "X",
            "help": "What pixels, 0 to 255, are divided by first",
        },
        "channel_order": {
            "type": click.Choice([RGB, BGR]),
            "metavar": "NAME",
            "help": "Of colours: rgb or bgr",
        },
        "layout": {
            "type": click.Choice([NCHW, NHWC]),
            "metavar": "NAME",
            "help": "Of the model's input: nchw or nhwc",
        },
        "size": {
            "callback": _size,
            "metavar": "HxW",
            "help": "Height and width, where the model leaves them open",
        },
        "resize": {
            "type": click.Choice([CROP, STRETCH]),
            "metavar": "NAME",
            "help": "Fill the size by the middle or by all: crop or stretch",
        },
    }
    decorated: Any = taking
    for name in reversed(IMAGE_FLAGS):
        decorated = click.option("--" + name.replace("_", "-"), **known[name])(decorated)
    return decorated  # type: ignore[no-any-return]
