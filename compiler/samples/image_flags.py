"""The options of both commands for folders of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .image_options import BGR, CROP, NCHW, NHWC, PRESETS, RGB, STRETCH, ImageOptions

F = TypeVar("F", bound=Callable[..., Any])

#: Parameters in the order of the help, which has them in a group of their own.
IMAGES = "Images"
IMAGE_FLAGS = (
    *("preset", "mean", "std", "pixel_scale"),
    *("channel_order", "layout", "size", "resize"),
)


if TYPE_CHECKING:  # older releases of click have no type arguments here
    _ParamType = click.ParamType[tuple[float, ...]]
else:
    _ParamType = click.ParamType


class Several(_ParamType):
    """Numbers with something between them, or as a file of options has them: one, or an array."""

    def __init__(self, kind: type[int] | type[float], between: str, wanted: str) -> None:
        self.name = kind.__name__
        self._kind, self._between, self._wanted = kind, between, wanted

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers; refused is what is none."""
        items = value.lower().split(self._between) if isinstance(value, str) else value
        try:
            return tuple(
                self._kind(str(item))
                for item in (items if isinstance(items, (list, tuple)) else [items])
            )
        except ValueError:
            self.fail(f"{value!r}: give {self._wanted}", param, ctx)


_NUMBERS = Several(float, ",", "a number, or one per channel, such as 0.485,0.456,0.406")
_SIZE = Several(int, "x", "one number, or the height and the width, such as 360x480")


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
            "type": _NUMBERS,
            "metavar": "M,M,M",
            "help": "Subtracted after the scale: of all channels, or each",
        },
        "std": {"type": _NUMBERS, "metavar": "S,S,S", "help": "Divided by after that"},
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
            "type": _SIZE,
            "metavar": "HxW",
            "help": "Height and width, where the model leaves them open",
        },
        "resize": {
            "type": click.Choice([CROP, STRETCH]),
            "metavar": "NAME",
            "help": "How images fill the size: crop or stretch",
        },
    }
    decorated: Any = taking
    for name in reversed(IMAGE_FLAGS):
        decorated = click.option("--" + name.replace("_", "-"), **known[name])(decorated)
    return decorated  # type: ignore[no-any-return]
