"""Data as people have them: opened as samples for a model, as often as they are wanted.

1. A path is a file or folder of arrays (``files.py``), or a folder or CSV of images
   (``images.py``).
2. A mapping has one array for each input, by name, an array is that of the only input; samples are
   along the first axis.
3. Anything else is an iterable of batches, or of single samples, which lack the first axis: arrays,
   tuples (the inputs in order, then the labels if there is one more), or mappings. An object with
   ``get_next``, as onnxruntime's quantisation has them, is one that ends with None. It is read
   once and spooled (``arrays.py``).
4. Array is whatever NumPy makes one of; tensors of torch are detached and brought to the processor
   first. Nothing is imported for them.
5. Images of pillow in such data, one or a list of them in the place of an array, become values as
   options of images say (``images.py``).
6. ``columns`` says which name mappings have for an input of the model, or for 'labels'.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..errors import DataError, UsageError
from ..progress import Progress
from .arrays import ArraySamples, Digest, Spool
from .base import LABELS, GivenSamples, InputSpec, inputs_without_batch
from .checks import check_arrays, missing, unread
from .files import FileSamples
from .image_options import ImageOptions, Pixels, recorded, resolve
from .images import ImageSpool, fed, is_images, values_of


class Reader(Protocol):
    """A CalibrationDataReader of onnxruntime."""

    def get_next(self) -> Mapping[str, Any] | None:
        """The next batch, None at the end."""


_NO_IMAGES = "{}: holds no images, on which {} has an effect; leave it out"

#: What is taken as calibration and test data.
Data: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any] | Reader


class Source:
    """Data that can be opened any number of times; what is spooled for it is kept until closed.

    Args:
        data: rules 1 to 4.
        columns: rule 6.
        images: how pixels become values, if the data are images.
    """

    _spool: Spool | None = None
    _images: ImageSpool | None = None
    _recorded: ImageOptions | None = None

    def __init__(
        self,
        data: Data,
        columns: Mapping[str, str] | None = None,
        images: ImageOptions | None = None,
    ) -> None:
        self._image_options = images
        self._pixels: Pixels | None = None
        self._data, self._columns = data, dict(columns or {})
        self._late, self._known = False, ""
        self._digest, self._warnings = "", []  # type: str, list[str]

    @property
    def path(self) -> Path | None:
        """Of the file or folder; None of data that are no path."""
        return Path(self._data) if isinstance(self._data, (str, os.PathLike)) else None

    @property
    def image_options(self) -> ImageOptions | None:
        """How pixels become values, as far as it is given."""
        return self._image_options

    def read_late(self, known: str = "") -> None:
        """Read what a path holds only as it is asked for.

        Args:
            known: SHA-256 of all of it, as another process found it; empty: it is found here.
        """
        self._late, self._known = True, known

    def close(self) -> None:
        """Give back what was spooled; an iterator, which cannot be read again, is used up."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._images is not None:
            self._images.close()

    def __del__(self) -> None:  # noqa: D105
        self.close()

    def prepare_images(self, preprocessing: str | None) -> None:
        """Prepare images as is recorded, where they are images and nothing else is said of them."""
        if preprocessing and self._image_options is None and self._images is None:
            if self.path is None:
                self._recorded = recorded(preprocessing)
            elif is_images(self.path):
                self._image_options = recorded(preprocessing)

    def open(self, specs: list[InputSpec], progress: Progress | None = None) -> GivenSamples:
        """The samples for a model with these inputs; those it is opened for have the same names.

        Raises:
            DataError: the data do not fit the inputs.
            UsageError: ``columns`` or options of images name no input, or have no effect.
        """
        self._check_columns(specs)
        data = self._data
        if isinstance(data, (str, os.PathLike)):
            if self._columns:
                raise UsageError("columns are of data in Python; a file has the inputs' names")
            return self._of_path(Path(data), specs, progress or Progress())
        samples = self._of_arrays(data, specs, progress or Progress())
        if self._pixels is not None:
            samples.preprocessing = self._pixels.as_json()
        elif self._image_options is not None:
            raise UsageError(_NO_IMAGES.format(_kind(data), self._image_options.given[0]))
        return samples

    def _of_arrays(self, data: Any, specs: list[InputSpec], progress: Progress) -> ArraySamples:
        if isinstance(data, Mapping):
            return self._of_mapping(data, specs)
        if _is_array(data):
            if self._columns:
                raise UsageError("a single array has no columns; leave them out")
            return ArraySamples("the array", [self._only("the array", specs, data)], specs)
        if self._spool is None:
            self._spool_all(data, specs, progress)
        assert self._spool is not None
        return ArraySamples(
            _kind(data), self._spool.parts(), specs, self._digest, tuple(self._warnings)
        )

    def _of_path(self, path: Path, specs: list[InputSpec], progress: Progress) -> GivenSamples:
        if self._images is None and is_images(path):
            self._images = ImageSpool(path, self._image_options, self._late, self._known)
        if self._images is not None:
            return self._images.open(specs, progress)
        samples = FileSamples(path, specs, self._known)
        if self._image_options is not None:
            raise UsageError(_NO_IMAGES.format(path, self._image_options.given[0]))
        return samples

    def _check_columns(self, specs: list[InputSpec]) -> None:
        known = {LABELS, *(spec.name for spec in specs)}
        for name in self._columns:
            if name not in known:
                raise UsageError(
                    f"columns: the model has no input '{name}'; it has {sorted(known - {LABELS})}, "
                    f"and '{LABELS}' are the labels"
                )

    def _of_mapping(self, data: Mapping[str, Any], specs: list[InputSpec]) -> ArraySamples:
        place = "the arrays"
        arrays = self._fields(data, specs, place)
        return ArraySamples(place, [arrays], specs, None, self._others(data, specs, place))

    def _fields(
        self, item: Mapping[str, Any], specs: list[InputSpec], place: str
    ) -> dict[str, np.ndarray]:
        """Arrays of the inputs and of the labels, if there are, from what has names."""
        arrays = {}
        for spec in specs:
            column = self._columns.get(spec.name, spec.name)
            if column not in item:
                raise DataError(self._missing(place, spec.name, column, sorted(map(str, item))))
            arrays[spec.name] = self._value(item[column], spec, f"{place}: array '{column}'")
        column = self._columns.get(LABELS, LABELS)
        if column in item and LABELS not in arrays:
            arrays[LABELS] = as_array(item[column], f"{place}: array '{column}'")
        elif LABELS in self._columns and LABELS not in arrays:
            raise DataError(self._missing(place, LABELS, column, sorted(map(str, item))))
        return arrays

    def _missing(self, place: str, name: str, column: str, found: list[str]) -> str:
        if name in self._columns:
            return f"{place}: no column '{column}', which columns has for '{name}'; found {found}"
        return f"{missing(place, name, found)}, or give columns={{'{name}': ...}}"

    def _others(self, item: Mapping[str, Any], specs: list[InputSpec], place: str) -> list[str]:
        """Warnings of arrays that nothing reads; whoever names columns has chosen."""
        if self._columns:
            return []
        names = {spec.name for spec in specs}
        return unread(place, (str(name) for name in item if name not in names), specs)

    def _spool_all(self, data: Any, specs: list[InputSpec], progress: Progress) -> None:
        place, alone = _kind(data), inputs_without_batch(specs)
        batches, length = _batches(data), _length(data)
        if length is not None:
            batches = progress.track(batches, length, "reading")
        names = [spec.name for spec in specs]
        spool, digest, labelled = None, Digest(names), False
        try:
            for number, item in enumerate(batches):
                where = f"{place}, batch {number}"
                arrays = _with_batch_axis(self._arrays(item, specs, where), specs, alone, where)
                count, _ = check_arrays(where, specs, arrays)
                if LABELS not in names and LABELS in arrays:
                    _check_labels(where, arrays[LABELS], count)
                if spool is None:
                    labelled = LABELS in arrays and LABELS not in names
                    spool = Spool([*names, LABELS] if labelled else names)
                    if isinstance(item, Mapping):
                        self._warnings = self._others(item, specs, place)
                elif LABELS not in names and labelled != (LABELS in arrays):
                    first, here = ("some", "none") if labelled else ("none", "some")
                    raise DataError(
                        f"{where}: has {here} labels, those before it have {first}; give them with "
                        "every batch"
                    )
                spool.add(arrays)
                digest.add(arrays)
        except BaseException:
            if spool is not None:
                spool.close()
            raise
        if spool is None:
            raise DataError(
                f"{place}: no batches; an iterator that was used before is empty, make a new one"
            )
        self._spool, self._digest = spool, digest.hexdigest()

    def _arrays(self, item: Any, specs: list[InputSpec], place: str) -> dict[str, np.ndarray]:
        """A batch or a sample by name, whatever form it has."""
        if isinstance(item, Mapping):
            return self._fields(item, specs, place)
        if self._columns:
            raise UsageError(f"{place}: is a {_type(item)}, which has no columns; leave them out")
        if not _has_fields(item):
            return self._only(place, specs, item)
        names = [spec.name for spec in specs]
        if len(item) not in (len(names), len(names) + 1):
            raise DataError(
                f"{place}: has {len(item)} arrays, the model has {len(names)} inputs "
                f"({', '.join(names)}); give one for each in this order, then the labels if there "
                "are"
            )
        arrays = {
            spec.name: self._value(value, spec, f"{place}: array '{spec.name}'")
            for spec, value in zip(specs, item, strict=False)
        }
        if len(item) > len(names):
            arrays[LABELS] = as_array(item[-1], f"{place}: array '{LABELS}'")
        return arrays

    def _only(self, place: str, specs: list[InputSpec], value: Any) -> dict[str, np.ndarray]:
        """The array of the only input."""
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise DataError(
                f"{place}: is of type {_type(value)}, and the model has {len(specs)} inputs "
                f"({names}); give an array for each, in this order or by name"
            )
        (spec,) = specs
        return {spec.name: self._value(value, spec, f"{place}: array '{spec.name}'")}

    def _value(self, value: Any, spec: InputSpec, place: str) -> np.ndarray:
        """An array of an input; rule 5."""
        several = isinstance(value, (list, tuple))
        pictures = list(value) if several else [value]
        if not pictures or not all(map(_is_picture, pictures)):
            return as_array(value, place)
        options = self._image_options or self._recorded or ImageOptions()
        self._pixels = resolve(options, spec.name, spec.shape, spec.dtype.kind == "f")
        rows = [fed(picture, place, self._pixels) for picture in pictures]
        if any(row.shape != rows[0].shape for row in rows):
            raise DataError(
                f"{place}: images of several sizes, and the model leaves height and width open; "
                "give images=ImageOptions(size=...)"
            )
        block = values_of(np.stack(rows), self._pixels, spec.dtype)
        return block if several else np.asarray(block[0])


@contextmanager
def opened(
    data: Data | Source | None,
    columns: Mapping[str, str] | None = None,
    images: ImageOptions | None = None,
) -> Iterator[Source | None]:
    """The source of data, closed in the end; one that is given, or none, stays as it is.

    Raises:
        UsageError: columns or options of images without data, or of a source, which has its own.
    """
    if (columns or images) and (data is None or isinstance(data, Source)):
        has = "there are none" if data is None else "a Source has its own"
        what = "columns" if columns else "options of images"
        raise UsageError(f"{what} are of data, and {has}; leave them out")
    if data is None or isinstance(data, Source):
        yield data
        return
    source = Source(data, columns, images)
    try:
        yield source
    finally:
        source.close()


def as_array(value: Any, place: str) -> np.ndarray:
    """What NumPy makes of a value.

    Args:
        value: an array, a tensor, numbers in lists.
        place: of it, for messages.

    Raises:
        DataError: it makes no array of numbers of it.
    """
    kind = _type(value)
    try:
        for method in ("detach", "cpu"):  # tensors of torch that need gradients, or are elsewhere
            if callable(getattr(value, method, None)):
                value = getattr(value, method)()
        if not hasattr(value, "__array__") and callable(getattr(value, "numpy", None)):
            value = value.numpy()
        array = np.asarray(value)
    except Exception as error:  # of whatever library
        raise DataError(
            f"{place} of type {kind} does not become an array: {error}; give a NumPy array"
        ) from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{place} of type {kind} holds {array.dtype}, not numbers; give an array")
    return array


def _is_picture(value: object) -> bool:
    """Whether it is an image of pillow, which is not imported for that."""
    return callable(getattr(value, "getbands", None)) and callable(getattr(value, "convert", None))


def _is_array(value: object) -> bool:
    return hasattr(value, "__array__") or callable(getattr(value, "numpy", None))


def _has_fields(item: Any) -> bool:
    """Whether it holds several arrays; lists of numbers, and of lists of them, are one."""
    return isinstance(item, tuple) or (isinstance(item, list) and any(map(_is_array, item)))


def _with_batch_axis(
    arrays: dict[str, np.ndarray], specs: list[InputSpec], alone: frozenset[str], place: str
) -> dict[str, np.ndarray]:
    """Arrays of single samples as those of batches of one."""
    single = {
        spec.name
        for spec in specs
        if arrays[spec.name].ndim == len(spec.shape) - (spec.name not in alone)
    }
    if not single:
        return arrays
    if len(single) < len(specs):
        other = next(spec.name for spec in specs if spec.name not in single)
        raise DataError(
            f"{place}: array '{min(single)}' is one sample without a batch axis, and '{other}' is "
            "not; give all with a batch axis or all without"
        )
    return {name: array[None] for name, array in arrays.items()}


def _batches(data: Any) -> Iterator[Any]:
    if callable(getattr(data, "get_next", None)):
        return iter(data.get_next, None)
    try:
        return iter(data)
    except TypeError:
        raise DataError(
            f"data of type {_type(data)} cannot be read; give a path, arrays by the inputs' names, "
            "an array, or an iterable of batches"
        ) from None


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a generator
        return None


def _check_labels(place: str, labels: np.ndarray, count: int) -> None:
    # Of pairs there is one for two samples.
    if not labels.shape or count not in (len(labels), 2 * len(labels)):
        raise DataError(
            f"{place}: labels {labels.dtype} {list(labels.shape)} for {count} samples; give as "
            "many, along the first axis"
        )


def _type(value: object) -> str:
    return type(value).__name__


def _kind(data: object) -> str:
    return f"the {_type(data)}"
