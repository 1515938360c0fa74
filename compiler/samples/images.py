"""Samples from image files: PNG and JPEG, in a folder or listed in a CSV.

1. A folder's images are read in name order. Where it has none itself, each of its subfolders is a
   class: names in their order are 0, 1, ..., as torchvision's ImageFolder has it; a subfolder may
   have more below it.
2. A CSV has lines of a file name, from the folder of the CSV on, and a class: an index, or a name,
   and names are numbered in their order. A first line that names no image is a heading. A CSV in
   the folder of the images has a line for each of them; of one that is given itself the images are
   those that it lists, in its order.
3. All images are decoded once, one at a time, so that whatever is wrong with one is said before any
   long work, and spooled as they are fed but for the scale: 8 bits per value (``arrays.py``).
4. Greys, palettes, RGB, CMYK are brought to the channels of the input. Images of which a part is
   transparent, and those of more than 8 bits per channel, are refused: what they would become
   depends on choices that nobody made. Orientations noted beside the pixels are not applied.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..progress import Progress
from .arrays import Spool
from .base import Feed, GivenSamples, InputSpec, Rows
from .checks import check_arrays
from .image_options import BGR, CROP, NCHW, NHWC, ImageOptions, Pixels, resolve

SUFFIXES = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")
#: Modes of images of 8 bits per channel, or fewer.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@dataclass(frozen=True)
class ImageList:
    """Image files, and what is known of their classes.

    Attributes:
        place: the folder or the CSV.
        files: in the order in which they are samples.
        labels: the class of each; None where none are given.
        classes: names of the classes in the order of their indices, where they have names.
    """

    place: Path
    files: list[Path]
    labels: np.ndarray | None = None
    classes: Sequence[str] = ()


def is_images(path: Path) -> bool:
    """Whether a path is a CSV, or a folder that has images and no arrays."""
    if not path.is_dir():
        return path.suffix.lower() == ".csv"
    return not _has(path.iterdir(), (".npz", ".npy")) and _has(path.rglob("*"), SUFFIXES)


def list_images(path: Path) -> ImageList:
    """The images of a folder or a CSV: rules 1 and 2.

    Raises:
        DataError: there are none, or it is not clear what their classes are.
    """
    if not path.is_dir():
        return _listed(path)
    tables = [one for one in path.iterdir() if one.suffix.lower() == ".csv"]
    if len(tables) > 1:
        names = ", ".join(sorted(one.name for one in tables))
        raise DataError(f"{path}: holds several CSV files ({names}); give the one to read")
    if tables:
        return _in_table(path, tables[0])
    own, inner = _images(path.iterdir()), _images(path.rglob("*"))
    if own and len(own) < len(inner):
        other = next(one for one in inner if one.parent != path)
        raise DataError(
            f"{path}: holds images, and so does {other.parent}; give a folder of images, or one "
            "whose subfolders are the classes"
        )
    return ImageList(path, own) if own else _in_classes(path)


class ImageSamples(GivenSamples):
    """Decoded images, their values made as they are read.

    Attributes:
        images: their files.
        pixels: how they become values.

    Args:
        images: what was decoded.
        pixels: how they become values.
        spec: the input.
        parts: their pixels by the input's name, uint8, in the layout of the input.
        digest: SHA-256 of the files.

    Raises:
        DataError: there are fewer than the model's batch.
    """

    def __init__(
        self,
        images: ImageList,
        pixels: Pixels,
        spec: InputSpec,
        parts: Sequence[dict[str, Rows]],
        digest: str,
    ) -> None:
        self.name, self.sha256 = str(images.place), digest
        self.preprocessing, self.classes = pixels.as_json(), images.classes
        self.images, self.pixels, self._spec, self._parts = images, pixels, spec, parts
        own = [part[spec.name] for part in parts]
        found = [check_arrays(self.name, [spec], {spec.name: _As(rows, spec)}) for rows in own]
        self._settle(self.name, [spec], found)

    def label_parts(self) -> list[tuple[str, Rows | None]]:
        """Those of all images."""
        return [(self.name, self.images.labels)]

    def _blocks(self, size: int) -> Iterator[Feed]:
        yield from self._blocks_from(size, 0)

    def _blocks_from(self, size: int, start: int) -> Iterator[Feed]:
        for part in self._parts:
            rows = part[self._spec.name]
            count = rows.shape[0]
            for first in range(min(start, count), count, size):
                block = rows[first : min(first + size, count)]
                yield {self._spec.name: values_of(block, self.pixels, self._spec.dtype)}
            start = max(start - count, 0)


def values_of(block: np.ndarray, pixels: Pixels, dtype: np.dtype) -> np.ndarray:
    """What pixels, uint8 as they are fed, become for an input of this element type."""
    if dtype.kind != "f":
        return block.astype(dtype, copy=False)
    shape = {NCHW: (-1, 1, 1), NHWC: (-1,)}.get(pixels.layout, ())
    mean, std = (np.array(one, np.float32) for one in (pixels.mean, pixels.std))
    mean, std = mean.reshape(shape), std.reshape(shape)
    values = (block.astype(np.float32) / np.float32(pixels.pixel_scale) - mean) / std
    return values.astype(dtype, copy=False)


class _As:
    """Pixels as the values that they become."""

    def __init__(self, rows: Rows, spec: InputSpec) -> None:
        self.shape, self.dtype = rows.shape, spec.dtype


class ImageSpool:
    """The images of a folder, decoded for inputs when they are asked for, and kept.

    Args:
        path: of a folder or a CSV.
        options: of the user; None: none were given.
        late: whether each is decoded when it is read, as often as that is, and none is kept.
        known: SHA-256 of the files, where another process has found it.
    """

    def __init__(
        self,
        path: Path,
        options: ImageOptions | None,
        late: bool = False,
        known: str = "",
    ) -> None:
        self._path, self._options = path, options or ImageOptions()
        self._late, self._known = late, known
        self._spool: Spool | None = None
        self._kept: tuple[Pixels, str] | None = None
        self._images: ImageList | None = None
        self._digest = ""

    def close(self) -> None:
        """Give back what was spooled."""
        if self._spool is not None:
            self._spool.close()
        self._spool = self._kept = None

    def open(self, specs: list[InputSpec], progress: Progress) -> ImageSamples:
        """The images as samples for a model of one input.

        Raises:
            DataError: there are no images, or one cannot be used.
            UsageError: the options do not say what pixels become, or pillow is not installed.
        """
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise DataError(
                f"{self._path}: images feed models of one input, and this one has {len(specs)} "
                f"({names}); give an .npz"
            )
        (spec,) = specs
        if spec.dtype.kind not in "fiu" or spec.dtype == np.int8:
            raise DataError(
                f"{self._path}: pixels do not go into the input '{spec.name}' of {spec.dtype}; "
                "give arrays"
            )
        self._images = self._images or list_images(self._path)
        pixels = resolve(self._options, spec.name, spec.shape, spec.dtype.kind == "f")
        if self._late:
            digest = self._known or _digest(self._images.files, progress)
            parts: list[dict[str, Rows]] = [{spec.name: _Undecoded(self._images.files, pixels)}]
            return ImageSamples(self._images, pixels, spec, parts, digest)
        if self._spool is None or self._kept != (_decoded_as(pixels), spec.name):
            self.close()
            self._decode(self._images, pixels, spec.name, progress)
        assert self._spool is not None
        return ImageSamples(self._images, pixels, spec, self._spool.parts(), self._digest)

    def _decode(self, images: ImageList, pixels: Pixels, name: str, progress: Progress) -> None:
        pillow, digest, spool = open_pillow(), hashlib.sha256(), Spool([name])
        seen: tuple[Path, tuple[int, ...]] | None = None
        try:
            for file in progress.track(images.files, len(images.files), "reading images"):
                data = _bytes_of(file)
                digest.update(data)
                array = _decode_one(pillow, file, data, pixels)
                seen = seen or (file, array.shape)
                if array.shape != seen[1]:
                    raise _other_size(file, seen[0])
                spool.add({name: array[None]})
        except BaseException:
            spool.close()
            raise
        self._spool, self._digest = spool, digest.hexdigest()
        self._kept = (_decoded_as(pixels), name)


class _Undecoded:
    """Images as an array of pixels, decoded when they are asked for.

    Attributes:
        shape: how many there are, and the shape of the first as it is fed.
        dtype: uint8.
    """

    def __init__(self, files: Sequence[Path], pixels: Pixels) -> None:
        self._files, self._pixels, self._pillow = files, pixels, open_pillow()
        self.dtype = np.dtype(np.uint8)
        self.shape = (len(files), *self._read(files[0]).shape)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        found = []
        for file in self._files[rows]:
            found.append(self._read(file))
            if found[-1].shape != self.shape[1:]:
                raise _other_size(file, self._files[0])
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), self.dtype)

    def _read(self, file: Path) -> np.ndarray:
        return _decode_one(self._pillow, file, _bytes_of(file), self._pixels)


def _digest(files: Sequence[Path], progress: Progress) -> str:
    """SHA-256 of files, one after the other."""
    digest = hashlib.sha256()
    for file in progress.track(files, len(files), "reading images"):
        digest.update(_bytes_of(file))
    return digest.hexdigest()


def _other_size(file: Path, first: Path) -> DataError:
    return DataError(
        f"{file}: its size is another than that of {first.name}, and the model leaves height and "
        "width open; give --size HxW"
    )


def _decoded_as(pixels: Pixels) -> Pixels:
    """What decoding depends on: all but the arithmetic of values."""
    return replace(
        pixels, pixel_scale=1.0, mean=(0.0,) * pixels.channels, std=(1.0,) * pixels.channels
    )


def open_pillow() -> ModuleType:
    """Pillow's module of images.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            "reading images needs pillow: install the extra 'images' (pip install "
            "'snn-compile[images]'), or give arrays"
        ) from error
    return Image


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error


def _decode_one(pillow: ModuleType, file: Path, data: bytes, pixels: Pixels) -> np.ndarray:
    """The pixels of an image as they are fed, without the batch axis: uint8."""
    try:
        with pillow.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            return fed(image, file, pixels)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever they like
        what = str(error).replace(f" {io.BytesIO.__name__}", "") or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            what = "it is neither PNG nor JPEG, or damaged at its beginning"
        raise DataError(
            f"{file}: is no readable image: {what}; save it again, or leave it out"
        ) from error


def fed(image: Any, file: Path | str, pixels: Pixels) -> np.ndarray:
    """The pixels of an image of pillow as they are fed: uint8, without the batch axis."""
    if image.mode not in _MODES:
        raise DataError(
            f"{file}: has more than 8 bits per channel (mode {image.mode}); save it with 8"
        )
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise DataError(
                f"{file}: a part of it is transparent; save it on a background, without alpha"
            )
    image = image.convert("L" if pixels.channels == 1 else "RGB")
    if pixels.size is not None and (image.height, image.width) != pixels.size:
        image = resized(image, pixels, open_pillow().Resampling.BILINEAR)
    array: np.ndarray = np.asarray(image)
    if pixels.channel_order == BGR:
        array = array[..., ::-1]
    if pixels.layout == NCHW:
        array = array[None] if pixels.channels == 1 else np.moveaxis(array, -1, 0)
    elif pixels.layout == NHWC and pixels.channels == 1:
        array = array[..., None]
    return np.ascontiguousarray(array)


def resized(image: Any, pixels: Pixels, resampling: Any) -> Any:
    """An image of pillow cut and scaled to the size that is fed."""
    assert pixels.size is not None
    height, width = pixels.size
    box = part_kept(image.width, image.height, pixels)
    return image.resize((width, height), resampling, box)


def part_kept(width: float, height: float, pixels: Pixels) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is kept of an image of another size than is fed."""
    if pixels.resize != CROP or pixels.size is None:
        return (0.0, 0.0, float(width), float(height))
    # The largest part of this shape, in the middle.
    shrink = min(height / pixels.size[0], width / pixels.size[1])
    left, top = (width - shrink * pixels.size[1]) / 2, (height - shrink * pixels.size[0]) / 2
    box = (left, top, left + shrink * pixels.size[1], top + shrink * pixels.size[0])
    return (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))


def _has(paths: Iterator[Path], suffixes: Sequence[str]) -> bool:
    return any(one.suffix.lower() in suffixes and one.is_file() for one in paths)


def _images(paths: Iterator[Path]) -> list[Path]:
    """Those of images, in name order; what begins with a dot is none of the user's."""
    return sorted(
        one
        for one in paths
        if one.suffix.lower() in SUFFIXES and not one.name.startswith(".") and one.is_file()
    )


def _in_classes(path: Path) -> ImageList:
    folders = sorted(
        (one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")),
        key=lambda one: one.name,
    )
    files: list[Path] = []
    labels: list[int] = []
    for index, folder in enumerate(folders):
        own = _images(folder.rglob("*"))
        if not own:
            raise DataError(
                f"{folder}: holds no PNG or JPEG image, and would be class {index}; remove it, or "
                "put its images into it"
            )
        files += own
        labels += [index] * len(own)
    if not files:
        raise DataError(f"{path}: holds no PNG or JPEG image; save images in it")
    names = [folder.name for folder in folders]
    return ImageList(path, files, np.array(labels, np.int64), names)


def _in_table(folder: Path, table: Path) -> ImageList:
    """The images of a folder in name order, and their classes from the CSV in it."""
    listed = _listed(table)
    known = {file.resolve(): row for row, file in enumerate(listed.files)}
    files = _images(folder.rglob("*"))
    for file in files:
        if file.resolve() not in known:
            raise DataError(
                f"{table}: has no line for {file.relative_to(folder)}; add it, or give the CSV "
                "itself, to read the images alone that it lists"
            )
    assert listed.labels is not None
    rows = [known[file.resolve()] for file in files]
    return ImageList(folder, files, listed.labels[rows], listed.classes)


def _listed(table: Path) -> ImageList:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(n, row) for n, row in enumerate(csv.reader(stream), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: is no readable CSV: {error}; save it as UTF-8 text") from error
    if rows and Path(rows[0][1][0].strip()).suffix.lower() not in SUFFIXES:
        rows = rows[1:]  # a heading
    files, given = [], []
    for number, row in rows:
        if len(row) < 2 or not row[1].strip():
            raise DataError(f"{table}: line {number} is no file name and class; write 'a.png,3'")
        file = table.parent / row[0].strip()
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            raise DataError(
                f"{table}: line {number}: '{row[0]}' is no PNG or JPEG file in {table.parent}; "
                "file names start from the folder of the CSV"
            )
        files.append(file)
        given.append(row[1].strip())
    if not files:
        raise DataError(f"{table}: lists no images; write lines of a file name and a class")
    if len({file.resolve() for file in files}) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise DataError(f"{table}: lists {twice.name} twice; remove a line")
    try:
        return ImageList(table, files, np.array([int(one) for one in given], np.int64))
    except (ValueError, OverflowError):
        names = sorted(set(given))
        places = {name: index for index, name in enumerate(names)}
        labels = np.array([places[one] for one in given], np.int64)
        return ImageList(table, files, labels, names)
