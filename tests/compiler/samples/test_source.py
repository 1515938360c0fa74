"""Data as Python code has them: arrays, batches in all their forms, readers; and refusals."""

from __future__ import annotations

import gc
import tracemalloc
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
from snn_compile.compiler.errors import DataError, UsageError
from snn_compile.compiler.samples.base import InputSpec
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.compiler.samples.source import Source, opened

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = InputSpec("image", F32, (None, 2, 3))
MASK = InputSpec("mask", I64, (None,))
DATA = np.arange(10 * 6, dtype=np.float32).reshape(10, 2, 3)
LABELS = np.arange(10)


class Tensor:
    """As torch has them: it needs gradients, and is elsewhere."""

    def __init__(self, array, ready=()):
        self.array, self.ready = array, set(ready)

    def detach(self):
        return Tensor(self.array, {*self.ready, "detached"})

    def cpu(self):
        return Tensor(self.array, {*self.ready, "here"})

    def __array__(self, dtype=None, copy=None):
        if self.ready != {"detached", "here"}:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")
        return np.asarray(self.array, dtype)


class Eager:
    """As tensorflow has them, here without __array__."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array


class Loader:
    """As torch's DataLoader: lists, of a known number, any number of times."""

    def __init__(self, *arrays, size=4):
        self.arrays, self.size = arrays, size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.size)

    def __iter__(self):
        for start in range(0, len(self.arrays[0]), self.size):
            yield [Tensor(array[start : start + self.size]) for array in self.arrays]


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def get_next(self):
        return next(self.batches, None)


def halves(*arrays):
    return [tuple(array[part] for array in arrays) for part in (slice(0, 5), slice(5, 10))]


def rows():
    """As a Hugging Face dataset: one sample after the other, numbers in lists."""
    for image, label in zip(DATA, LABELS, strict=True):
        yield {"image": image.tolist(), "labels": int(label), "text": "a"}


def collect(samples, size=4):
    feeds = list(samples.batches(size))
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def labels_of(samples):
    parts = [labels for _, labels in samples.label_parts()]
    return None if any(part is None for part in parts) else np.concatenate(parts)


ONE_INPUT = {
    "array": lambda: DATA,
    "tensor": lambda: Tensor(DATA),
    "float64": lambda: DATA.astype(np.float64),
    "mapping": lambda: {"image": DATA},
    "mapping of tensors": lambda: UserDict(image=Tensor(DATA)),
    "list of arrays": lambda: [DATA[:3], DATA[3:]],
    "generator": lambda: (DATA[i : i + 3] for i in range(0, 10, 3)),
    "eager": lambda: (Eager(DATA[i : i + 3]) for i in range(0, 10, 3)),
    "lists": lambda: [[DATA[:4]], [DATA[4:]]],
    "mappings": lambda: ({"image": part} for part in (DATA[:1], DATA[1:])),
    "samples": lambda: iter(DATA),
    "samples in lists": lambda: DATA.tolist(),
    "reader": lambda: Reader([{"image": DATA[:5]}, {"image": DATA[5:]}]),
}
LABELLED = {
    "mapping": lambda: {"image": DATA, "labels": LABELS},
    "loader": lambda: Loader(DATA, LABELS),
    "tuples": lambda: halves(DATA, LABELS),
    "pairs": lambda: zip(DATA, LABELS, strict=True),
    "lists with numbers": lambda: [[image, int(i)] for i, image in enumerate(DATA)],
    "rows": rows,
}


@pytest.mark.parametrize("form", ONE_INPUT)
def test_one_input(form):
    with opened(ONE_INPUT[form]()) as source:
        samples = source.open([IMAGE])
        assert (samples.count, samples.fixed_batch, samples.synthetic) == (10, None, False)
        found = collect(samples)["image"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, DATA)
        np.testing.assert_array_equal(collect(samples, 3)["image"], DATA)  # again
        assert labels_of(samples) is None
        np.testing.assert_array_equal(collect(source.open([IMAGE]))["image"], DATA)


@pytest.mark.parametrize("form", LABELLED)
def test_labels(form):
    with opened(LABELLED[form]()) as source:
        samples = source.open([IMAGE])
        np.testing.assert_array_equal(collect(samples)["image"], DATA)
        np.testing.assert_array_equal(labels_of(samples), LABELS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"image": DATA, "mask": LABELS},
        lambda: halves(DATA, LABELS),
        lambda: zip(DATA, LABELS, strict=True),
        lambda: [{"mask": LABELS, "image": DATA}],
        lambda: halves(DATA, LABELS, LABELS),
    ],
)
def test_several_inputs_are_in_the_order_of_the_model(make):
    with opened(make()) as source:
        found = collect(source.open([IMAGE, MASK]))
        np.testing.assert_array_equal(found["image"], DATA)
        np.testing.assert_array_equal(found["mask"], LABELS)


def test_columns_rename_inputs_and_labels():
    columns = {"image": "pixel_values", "labels": "label"}
    for data in (
        {"pixel_values": DATA, "label": LABELS, "path": None},
        [{"pixel_values": DATA, "label": LABELS, "path": "x"}],
        ({"pixel_values": image, "label": i} for i, image in enumerate(DATA)),
    ):
        with opened(data, columns) as source:
            samples = source.open([IMAGE])
            np.testing.assert_array_equal(collect(samples)["image"], DATA)
            np.testing.assert_array_equal(labels_of(samples), LABELS)
            assert not samples.warnings


def test_an_input_that_is_called_labels_is_no_label():
    spec = InputSpec("labels", F32, (None, 2, 3))
    with opened([{"labels": DATA}]) as source:
        samples = source.open([spec])
        np.testing.assert_array_equal(collect(samples)["labels"], DATA)
        assert labels_of(samples) is None


def test_inputs_without_a_batch_axis():
    alone = [InputSpec("x", F32, (2, 3)), InputSpec("y", F32, (5, 3))]
    arrays = {"x": DATA, "y": np.ones((10, 5, 3), np.float32)}
    pairs = list(zip(*arrays.values(), strict=True))
    for data in (arrays, pairs, [tuple(arrays.values())]):
        with opened(data) as source:
            feeds = list(source.open(alone).batches(64))
        assert len(feeds) == 10
        np.testing.assert_array_equal(feeds[3]["x"], DATA[3])


def test_a_fixed_batch_is_filled_across_batches():
    with opened([DATA[:3], DATA[3:]]) as source:
        samples = source.open([IMAGE._replace(shape=(4, 2, 3))])
        assert [len(feed["image"]) for feed in samples.batches(1)] == [4, 4]


def test_batches_of_several_lengths_are_samples_of_one_batch_each():
    """As a tokeniser pads them: each batch to its longest text."""
    spec = InputSpec("ids", I64, (None, None))
    texts = [np.ones((2, 3), np.int64), np.ones((2, 5), np.int64)]
    with opened(texts) as source:
        samples = source.open([spec])
        assert [feed["ids"].shape for feed in samples.batches(2)] == [(2, 3), (2, 5)]
        with pytest.raises(DataError, match=r"shapes \[3\] and \[5\] .* pad them"):
            list(samples.batches(4))


def test_the_origin_does_not_depend_on_the_form():
    origins = set()
    for form, make in ONE_INPUT.items():
        if form not in ("float64", "samples in lists"):
            with opened(make()) as source:
                origins.add(source.open([IMAGE]).origin)
    assert len(origins) == 1
    with opened(DATA + 1) as source:
        assert source.open([IMAGE]).origin not in origins


def test_paths_are_files(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    for path in (tmp_path / "a.npy", str(tmp_path / "a.npy")):
        with opened(path) as source:
            assert isinstance(source.open([IMAGE]), FileSamples)


WITH_NAN = DATA.copy()
WITH_NAN[7, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WITH_NAN, "the array: array 'image' has NaN or inf in sample 7; repair"),
        (lambda: {"image": WITH_NAN}, "the arrays: array 'image' has NaN or inf in sample 7"),
        (lambda: Loader(WITH_NAN), "the Loader: array 'image' has NaN or inf in sample 7"),
        (lambda: iter(WITH_NAN), "array 'image' has NaN or inf in sample 7"),
        (lambda: DATA.astype(np.float64) * 1e300, "beyond float32.*scale the samples"),
        (
            lambda: {"u": DATA, "v": DATA},
            r"found \['u', 'v'\]; give it under that name, or give co",
        ),
        (lambda: {"images": DATA}, r"no array named 'image'.*rename 'images', or give columns="),
        (lambda: [{"pixels": DATA}], r"batch 0: no array named 'image'.*columns=\{'image': "),
        (lambda: DATA[:, :1], r"the array: array 'image' float32 \[10, 1, 3\] does not fit"),
        (lambda: [DATA, DATA[:, :1]], r"the list, batch 1: .* \[10, 1, 3\] does not fit the input"),
        (lambda: DATA.astype(np.uint8), "another element type than the input.*astype"),
        (lambda: [DATA.astype(np.uint8)], "batch 0: .*another element type than the input"),
        (lambda: DATA[:0], "the array: no samples, the arrays are empty"),
        (lambda: [DATA[:0]], "the list: no samples, the arrays are empty"),
        (list, "the list: no batches"),
        (lambda: iter(()), "no batches; an iterator that was used before is empty"),
        (lambda: [(DATA, LABELS, LABELS)], r"batch 0: has 3 arrays, the model has 1 inputs \(im"),
        (lambda: [(DATA, LABELS[:9])], r"labels int64 \[9\] for 10 samples"),
        (lambda: [(DATA, 3)], r"labels int64 \[\] for 10 samples"),
        (lambda: [(DATA, LABELS), DATA], "batch 1: has none labels, those before it have some"),
        (lambda: [DATA, (DATA, LABELS)], "batch 1: has some labels, those before it have none"),
        (lambda: [["a", "b"]], "batch 0: array 'image' of type list holds <U1, not numbers"),
        (lambda: [[[1.0], [1.0, 2.0]]], "of type list does not become an array"),
        (lambda: [{"image": object()}], "holds object, not numbers"),
        (lambda: 3, "data of type int cannot be read; give a path, arrays by"),
        (lambda: object(), "data of type object cannot be read"),
        (lambda: [Tensor(DATA, {"moved"})], "Can't call numpy.*; give a NumPy array"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(DataError, match=message), opened(make()) as source:
        collect(source.open([IMAGE]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DATA, r"the model has 2 inputs \(image, mask\)"),
        (lambda: [DATA], r"batch 0: is of type ndarray, and the model has 2 inputs"),
        (lambda: [(DATA,)], "has 1 arrays, the model has 2 inputs"),
        (lambda: [(DATA[0], LABELS)], "'image' is one sample without a batch axis, and 'mask'"),
        (lambda: {"image": DATA, "mask": LABELS[:9]}, "different numbers of samples"),
        (lambda: [(DATA, LABELS[:9])], "batch 0: the arrays have different numbers of samples"),
    ],
)
def test_refuses_for_several_inputs(make, message):
    with pytest.raises(DataError, match=message), opened(make()) as source:
        collect(source.open([IMAGE, MASK]))


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        ({"a": DATA}, {"picture": "a"}, r"no input 'picture'; it has \['image'\], and 'labels'"),
        (DATA, {"image": "a"}, "a single array has no columns"),
        ([DATA], {"image": "a"}, "batch 0: is a ndarray, which has no columns"),
        ("a.npy", {"image": "a"}, "columns are of data in Python"),
        (None, {"image": "a"}, "columns are of data, and there are none"),
        (Source(DATA), {"image": "a"}, "a Source has its own"),
    ],
)
def test_columns_without_effect(data, columns, message):
    with pytest.raises(UsageError, match=message), opened(data, columns) as source:
        source.open([IMAGE])


def test_columns_that_are_not_there():
    columns = {"image": "pixels", "labels": "y"}
    for data, wrong in (({"x": DATA}, "'pixels', which columns has for 'image'"),):
        with pytest.raises(DataError, match=wrong), opened(data, columns) as source:
            source.open([IMAGE])
    message = r"no column 'y', which columns has for 'labels'; found \['pixels'\]"
    with pytest.raises(DataError, match=message), opened([{"pixels": DATA}], columns) as source:
        source.open([IMAGE])


def test_arrays_that_nothing_reads_are_named():
    for data in ({"image": DATA, "label": LABELS}, [{"image": DATA, "label": LABELS}]):
        with opened(data) as source:
            (text,) = source.open([IMAGE]).warnings
        assert "'label' is not read, no input is called so; is it 'labels'?" in text


def test_a_generator_is_read_once_and_spooled_in_bounded_memory():
    """The batches are 60 MB in all."""
    drawn = []

    def batches():
        for number in range(300):
            drawn.append(number)
            yield np.full((50, 1000), number, np.float32)

    with opened(batches()) as source:
        spec = InputSpec("x", F32, (None, 1000))
        tracemalloc.start()
        samples = source.open([spec])
        totals = [sum(float(feed["x"].sum()) for feed in samples.batches(64)) for _ in range(2)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert drawn == list(range(300))
    assert totals[0] == totals[1] == 50_000 * sum(range(300))
    assert peak < 8 << 20


def test_the_spool_has_no_name(tmp_path, monkeypatch):
    """So it is gone with the process, however that ends; and it is closed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = Source(iter([DATA]))
    samples = source.open([IMAGE])
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(collect(samples)["image"], DATA)
    del source, samples
    gc.collect()  # an open file would warn
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        held = [str(one.readlink()) for one in descriptors.iterdir() if one.is_symlink()]
        assert not any(str(tmp_path) in name for name in held)


def test_an_iterable_that_fails_says_so_itself():
    def batches():
        yield DATA
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"), opened(batches()) as source:
        source.open([IMAGE])
