"""Labels that lie apart from the samples.

1. A file of arrays: an .npy, or an .npz with 'labels', one row per sample.
2. A folder of images, for samples that are images: of a.jpg the labels are a.png, or the only PNG
   whose name begins with a_ (a_L.png), at the same place below the folder. A pixel's label is its
   grey value, or its index where the image has a palette; images in colours are refused, what
   their colours mean is not in them.
3. A file of boxes in COCO's JSON, for samples that are images (:mod:`.coco`).
4. Label images are cut and scaled as their image is, to the nearest pixel; those that have the
   size of the network's input already are taken as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import LABELS, GivenSamples, Rows
from .coco import read_coco
from .image_options import Pixels
from .images import ImageList, ImageSamples, open_pillow, resized
from .stored import StoredRows

_SUFFIX = ".png"
#: Modes of images of one number per pixel: those of palettes have its index.
_MODES = ("1", "L", "P", "I", "I;16")


def read_label_path(path: Path, samples: GivenSamples) -> list[tuple[str, Rows | None]]:
    """The labels that a file or a folder has for samples, as ``label_parts`` gives them.

    Raises:
        DataError: they cannot be read, or an image has none.
        UsageError: pillow is not installed.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() or path.suffix == ".json":
        if not isinstance(samples, ImageSamples):
            what = "a folder of label images" if path.is_dir() else "a file of boxes"
            raise DataError(
                f"{path}: {what} is for samples that are images; give an .npy, or an .npz with "
                f"'{LABELS}'"
            )
        read = LabelImages if path.is_dir() else read_coco
        return [(str(path), read(path, samples.images, samples.pixels))]
    if path.suffix not in (".npy", ".npz"):
        raise DataError(
            f"{path}: expected labels as .npy, .npz with '{LABELS}', a folder of PNG images, or "
            "COCO's .json"
        )
    rows = StoredRows(path, LABELS)
    return [(str(path), rows if len(rows.shape) > 1 else rows[:])]


class LabelImages:
    """Label images as an array [images, height, width], decoded when they are asked for.

    Args:
        folder: that holds them.
        images: whose labels they are.
        pixels: how those become values.

    Attributes:
        shape: number of images, and height and width of the first.
        dtype: of the first.

    Raises:
        DataError: an image has none, or several, or the first is not fit.
    """

    def __init__(self, folder: Path, images: ImageList, pixels: Pixels) -> None:
        self._images, self._pixels = images.files, pixels
        self._files = _matched(folder, images)
        first = self._read(0)
        self.shape, self.dtype = (len(self._files), *first.shape), first.dtype

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Those of images that follow each other."""
        found = [self._read(index) for index in range(*rows.indices(len(self._files)))]
        for index, one in enumerate(found):
            if one.shape != found[0].shape:
                raise DataError(
                    f"{self._files[rows.start + index]}: is {list(one.shape)}, and labels before "
                    f"it are {list(found[0].shape)}; give --size HxW"
                )
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), self.dtype)

    def _read(self, index: int) -> np.ndarray:
        file, size, pillow = self._files[index], self._pixels.size, open_pillow()
        try:
            with pillow.open(file, formats=("PNG",)) as image:
                image.load()
                if image.mode not in _MODES:
                    raise DataError(
                        f"{file}: is an image in colours (mode {image.mode}), not of class "
                        "indices; save one number per pixel (grey, or a palette)"
                    )
                if size is not None and (image.height, image.width) != size:
                    image = self._scaled(image, index)
                return np.asarray(image)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # decoders raise whatever they like
            raise DataError(f"{file}: is no readable PNG image: {error}; save it again") from error

    def _scaled(self, image: Any, index: int) -> Any:
        pillow = open_pillow()
        with pillow.open(self._images[index]) as original:
            if original.size != image.size:
                width, height = original.size
                raise DataError(
                    f"{self._files[index]}: is {image.height}x{image.width}, and its image "
                    f"{self._images[index].name} is {height}x{width}; labels have the size of "
                    "their image or of the network's input"
                )
        return resized(image, self._pixels, pillow.Resampling.NEAREST)


def _matched(folder: Path, images: ImageList) -> list[Path]:
    """The label image of each image: rule 2."""
    place = images.place if images.place.is_dir() else images.place.parent
    known: dict[Path, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() == _SUFFIX and not file.name.startswith("."):
            known[file.relative_to(folder).with_suffix("")] = file
    if not known:
        raise DataError(f"{folder}: holds no PNG image; labels of pixels are PNG images")
    longer: dict[Path, list[Path]] = {}
    for name in known:
        parts = name.name.split("_")
        for end in range(1, len(parts)):
            longer.setdefault(name.with_name("_".join(parts[:end])), []).append(name)
    found = []
    for file in images.files:
        own = file.relative_to(place) if file.is_relative_to(place) else Path(file.name)
        own = own.with_suffix("")
        names = [own] if own in known else longer.get(own, [])
        if len(names) != 1:
            several = (
                f"several ({', '.join(known[one].name for one in names)})" if names else "none"
            )
            raise DataError(
                f"{folder}: holds {several} for the image {file.name}, expected {own}{_SUFFIX}, or "
                f"one whose name begins with {own.name}_"
            )
        found.append(known[names[0]])
    return found
