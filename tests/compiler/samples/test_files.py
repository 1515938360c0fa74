"""Calibration samples: what is accepted, what is refused, and that memory stays bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers import model_from_text
from snn_compile.compiler.errors import DataError, ModelError
from snn_compile.compiler.samples.base import InputSpec, input_specs
from snn_compile.compiler.samples.files import FileSamples
from snn_compile.compiler.samples.stored import StoredRows

F32 = np.dtype(np.float32)
IMAGE = InputSpec("image", F32, (None, 2, 3))
MASK = InputSpec("mask", np.dtype(np.int64), (None,))
DATA = np.arange(10 * 6, dtype=np.float32).reshape(10, 2, 3)


def collect(samples, size):
    return [{k: v.copy() for k, v in feed.items()} for feed in samples.batches(size)]


def test_npz_is_keyed_by_input_name_and_streamed_in_order(tmp_path):
    np.savez(tmp_path / "a.npz", image=DATA, mask=np.arange(10), labels=np.zeros(10))
    samples = FileSamples(tmp_path / "a.npz", [IMAGE, MASK])
    feeds = collect(samples, 4)
    assert [len(feed["image"]) for feed in feeds] == [4, 4, 2]
    assert samples.batch_count(4) == 3
    np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in feeds]), DATA)
    np.testing.assert_array_equal(np.concatenate([feed["mask"] for feed in feeds]), np.arange(10))
    assert set(feeds[0]) == {"image", "mask"}


def test_compressed_archives_work(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", image=DATA)
    feeds = collect(FileSamples(tmp_path / "a.npz", [IMAGE]), 64)
    np.testing.assert_array_equal(feeds[0]["image"], DATA)


def test_npy_feeds_the_only_input(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    feeds = collect(FileSamples(tmp_path / "a.npy", [IMAGE]), 64)
    np.testing.assert_array_equal(feeds[0]["image"], DATA)


def test_folder_is_read_in_name_order_and_batches_cross_files(tmp_path):
    np.save(tmp_path / "b.npy", DATA[5:])
    np.savez(tmp_path / "a.npz", image=DATA[:5])
    (tmp_path / "notes.txt").write_text("not samples")
    samples = FileSamples(tmp_path, [IMAGE])
    assert samples.count == 10
    feeds = collect(samples, 4)
    np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in feeds]), DATA)


def test_fixed_batches_leave_out_the_remainder(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    samples = FileSamples(tmp_path / "a.npy", [IMAGE._replace(shape=(4, 2, 3))])
    assert [len(feed["image"]) for feed in samples.batches(1)] == [4, 4]
    assert samples.batch_count(1) == 2


def test_inputs_without_batch_axis_get_one_sample_at_a_time(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    feeds = collect(FileSamples(tmp_path / "a.npy", [IMAGE._replace(shape=(2, 3))]), 64)
    assert len(feeds) == 10
    np.testing.assert_array_equal(feeds[3]["image"], DATA[3])


def test_float64_is_converted(tmp_path):
    np.save(tmp_path / "a.npy", DATA.astype(np.float64))
    feed = collect(FileSamples(tmp_path / "a.npy", [IMAGE]), 64)[0]
    assert feed["image"].dtype == np.float32


def test_samples_can_be_read_again(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    samples = FileSamples(tmp_path / "a.npy", [IMAGE])
    assert len(collect(samples, 3)) == len(collect(samples, 3)) == 4


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    wide = InputSpec("image", F32, (None, 1000))
    peaks = []
    for count in (500, 5000):
        path = tmp_path / f"{count}.npz"
        np.savez(path, image=np.zeros((count, 1000), np.float32))
        samples = FileSamples(path, [wide])
        tracemalloc.start()
        for _ in samples.batches(50):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5
    assert peaks[1] < 4 << 20  # the file is 20 MB


def write_bytes(data):
    return lambda path: path.write_bytes(data)


def savez(**arrays):
    return lambda path: np.savez(path, **arrays)


def truncated(path):
    np.savez(path, image=DATA)
    path.write_bytes(path.read_bytes()[:200])


def corrupted(path):
    np.savez(path, image=np.zeros((500, 2, 3), np.float32))
    data = bytearray(path.read_bytes())
    data[3000] ^= 255
    path.write_bytes(data)


def corrupted_compressed(path):
    noise = np.random.default_rng(0).standard_normal((500, 2, 3)).astype(np.float32)
    np.savez_compressed(path, image=noise)
    data = bytearray(path.read_bytes())
    data[3000:3100] = bytes(100)
    path.write_bytes(data)


def encrypted(path):
    """A flag in both headers says that the member is encrypted."""
    np.savez(path, image=DATA)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


WITH_NAN = DATA.copy()
WITH_NAN[7, 1, 1] = np.nan
WITH_INF = DATA.copy()
WITH_INF[2, 0, 0] = -np.inf


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_bytes(b""), "not a readable .npz"),
        (write_bytes(b"not a zip at all"), "not a readable .npz"),
        (truncated, "not a readable .npz"),
        (corrupted, "damaged"),
        (corrupted_compressed, "damaged"),
        (encrypted, "not a readable.*encrypted"),
        (savez(image=DATA.astype(object)), "Python objects"),
        (savez(images=DATA), "no array named 'image'.*rename 'images'"),
        (savez(x=DATA, labels=np.zeros(10)), "rename 'x'"),
        (savez(x=DATA, y=DATA), r"found \['x', 'y'\]"),
        (savez(image=DATA[:, :1]), r"\[10, 1, 3\] does not fit the input float32 \['\?', 2, 3\]"),
        (savez(image=DATA[0, 0]), "does not fit"),
        (savez(image=np.float32(1)), "does not fit"),
        (savez(image=DATA.astype(np.uint8)), "another element type.*normalisation"),
        (savez(image=DATA[:0]), "no samples"),
        (savez(image=WITH_NAN), "NaN or inf in sample 7"),
        (savez(image=WITH_INF), "NaN or inf in sample 2"),
        (savez(image=np.asfortranarray(DATA)), "ascontiguousarray"),
    ],
)
def test_refuses(tmp_path, write, message):
    write(tmp_path / "a.npz")
    with pytest.raises(DataError, match=message):
        collect(FileSamples(tmp_path / "a.npz", [IMAGE]), 4)


def test_the_sample_is_counted_in_its_file(tmp_path):
    np.savez(tmp_path / "a.npz", image=DATA)
    np.savez(tmp_path / "b.npz", image=WITH_NAN)
    with pytest.raises(DataError, match=r"b\.npz: array 'image' has NaN or inf in sample 7"):
        collect(FileSamples(tmp_path, [IMAGE]), 4)


@pytest.mark.parametrize(
    ("dtype", "value", "kept"),
    [(np.float32, 1e300, np.float64), (np.float16, 1e5, np.float32), (np.float16, -1e300, "f8")],
)
def test_values_beyond_the_type_of_the_input_are_refused(tmp_path, dtype, value, kept):
    """Nor does NumPy's warning of an overflow show; warnings are errors here."""
    data = DATA.astype(kept)
    data[3, 1, 2] = value
    np.savez(tmp_path / "a.npz", image=data)
    spec = IMAGE._replace(dtype=np.dtype(dtype))
    says = rf"array 'image' has .* in sample 3, beyond {np.dtype(dtype)}.*scale the samples"
    with pytest.raises(DataError, match=says):
        collect(FileSamples(tmp_path / "a.npz", [spec]), 2)


@pytest.mark.parametrize(
    ("names", "hints"),
    [
        (["label"], ["'label' is not read, no input is called so; is it 'labels'?"]),
        (["Labels"], ["'Labels' is not read, no input is called so; is it 'labels'?"]),
        (["image_2"], ["'image_2' is not read, no input is called so; is it 'image'?"]),
        (["zzz", "labels"], ["'zzz' is not read, no input is called so"]),
        (["labels"], []),
    ],
)
def test_arrays_that_nothing_reads_are_named(tmp_path, names, hints):
    np.savez(tmp_path / "a.npz", image=DATA, **dict.fromkeys(names, np.zeros(10)))
    warnings = FileSamples(tmp_path / "a.npz", [IMAGE]).warnings
    assert [text.partition("array ")[2] for text in warnings] == hints


def test_inputs_without_a_batch_axis_are_explained(tmp_path):
    """The nodes and edges of one graph."""
    nodes, edges = InputSpec("nodes", F32, (None, 6)), InputSpec("edges", F32, (2, None))
    arrays = {"nodes": np.zeros((12, 6), np.float32), "edges": np.zeros((2, 30), np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=r"'nodes' 12, 'edges' 2;.*one dimension more, the first"):
        FileSamples(tmp_path / "a.npz", [nodes, edges])
    np.savez(tmp_path / "a.npz", **{name: array[None] for name, array in arrays.items()})
    assert FileSamples(tmp_path / "a.npz", [nodes, edges]).count == 1


def test_refuses_missing_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        FileSamples(tmp_path / "a.npz", [IMAGE])
    with pytest.raises(DataError, match="holds no"):
        FileSamples(tmp_path, [IMAGE])
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"expected \.npz"):
        FileSamples(tmp_path / "a.csv", [IMAGE])


def test_refuses_npy_for_several_inputs(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    with pytest.raises(DataError, match=r"2 inputs \(image, mask\); give an \.npz"):
        FileSamples(tmp_path / "a.npy", [IMAGE, MASK])


def test_refuses_different_numbers_of_samples(tmp_path):
    np.savez(tmp_path / "a.npz", image=DATA, mask=np.arange(9))
    with pytest.raises(DataError, match="different numbers of samples"):
        FileSamples(tmp_path / "a.npz", [IMAGE, MASK])


def test_refuses_fewer_samples_than_a_fixed_batch(tmp_path):
    np.save(tmp_path / "a.npy", DATA)
    with pytest.raises(DataError, match="do not fill one batch of 16"):
        FileSamples(tmp_path / "a.npy", [IMAGE._replace(shape=(16, 2, 3))])


def test_input_specs_leave_out_initializers_and_refuse_other_types():
    model = model_from_text("g (float[N,3] x, int64[2,M] i) => (float[N,3] y) { y = Relu (x) }")
    assert input_specs(model) == [
        InputSpec("x", F32, (None, 3)),
        InputSpec("i", np.dtype(np.int64), (2, None)),
    ]
    text = model_from_text("g (string[N] s) => (string[N] t) { t = Identity (s) }")
    with pytest.raises(ModelError, match=r"input 's'.*only numbers"):
        input_specs(text)
    sequence = model_from_text("g (seq(float[N]) s) => (seq(float[N]) t) { t = Identity (s) }")
    with pytest.raises(ModelError, match="input 's' is of type sequence_type"):
        input_specs(sequence)


def test_samples_of_different_shapes_do_not_go_into_one_batch(tmp_path):
    for number, length in enumerate((3, 5)):
        np.save(tmp_path / f"{number}.npy", np.zeros((1, length), np.float32))
    samples = FileSamples(tmp_path, [InputSpec("x", np.dtype(np.float32), (None, None))])
    assert [len(feed["x"]) for feed in samples.batches(1)] == [1, 1]
    with pytest.raises(DataError, match=r"'x': samples of shapes \[3\] and \[5\] .* pad them"):
        list(samples.batches(2))


def test_a_folder_of_one_array_per_sample(tmp_path):
    for number, sample in enumerate(DATA):
        np.save(tmp_path / f"{number}.npy", sample)
    samples = FileSamples(tmp_path, [IMAGE])
    assert (samples.count, samples.unbatched) == (10, frozenset())
    feeds = collect(samples, 4)
    assert [len(feed["image"]) for feed in feeds] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([feed["image"] for feed in feeds]), DATA)
    np.save(tmp_path / "3.npy", WITH_NAN[7])
    with pytest.raises(DataError, match=r"3\.npy: array 'image' has NaN or inf in sample 0"):
        collect(FileSamples(tmp_path, [IMAGE]), 4)
    np.save(tmp_path / "3.npy", DATA[3][:, :1])
    with pytest.raises(DataError, match=r"3\.npy: array 'image' float32 \[1, 2, 1\] does not fit"):
        FileSamples(tmp_path, [IMAGE])
    np.save(tmp_path / "3.npy", DATA[3:5])
    message = r"0\.npy is one sample without a batch axis, and .*3\.npy is not; save the arrays"
    with pytest.raises(DataError, match=message):
        FileSamples(tmp_path, [IMAGE])


def test_one_number_per_sample_and_arrays_of_inputs_without_a_batch_axis(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.int64(number))
    feeds = collect(FileSamples(tmp_path, [MASK]), 3)
    assert [feed["mask"].tolist() for feed in feeds] == [[0, 1, 2], [3]]
    (tmp_path / "alone").mkdir()
    np.save(tmp_path / "alone" / "a.npy", DATA[:4])
    samples = FileSamples(tmp_path / "alone", [IMAGE._replace(shape=(2, 3))])
    assert (samples.count, samples.unbatched) == (4, {"image"})


# From a sample on, and lists ---------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npz", "compressed", "npy", "folder", "list"])
@pytest.mark.parametrize("start", [0, 1, 6, 7, 13, 19, 20])
def test_samples_are_read_from_any_of_them_on(tmp_path, form, start):
    x = np.arange(20 * 3, dtype=np.float32).reshape(20, 3)
    path = tmp_path / "d.npz"
    if form == "npy":
        path = tmp_path / "d.npy"
        np.save(path, x)
    elif form in ("npz", "compressed"):
        save = np.savez if form == "npz" else np.savez_compressed
        save(path, labels=np.zeros((20, 5)), x=x)
    else:
        (tmp_path / "parts").mkdir()
        np.savez(tmp_path / "parts" / "a.npz", x=x[:6])
        np.savez_compressed(tmp_path / "parts" / "b.npz", x=x[6:13])
        np.save(tmp_path / "parts" / "c.npy", x[13:])
        path = tmp_path / "parts"
        if form == "list":
            path = tmp_path / "list.txt"
            path.write_text("parts/a.npz\n\nparts/b.npz\n  parts/c.npy\n")
    samples = FileSamples(path, [InputSpec("x", np.dtype("float32"), (None, 3))])
    assert samples.count == 20
    feeds = list(samples.batches(4, start))
    assert all(len(feed["x"]) == 4 for feed in feeds[:-1])
    found = np.concatenate([x[:0], *(feed["x"] for feed in feeds)])
    np.testing.assert_array_equal(found, x[start:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no file"),
        ("a.npz\nb.png\n", r"b\.png, which is no \.npz or \.npy"),
        (b"\xff\xfe\x00", "is no readable list"),
    ],
)
def test_a_list_of_what_is_not_there_is_refused(tmp_path, text, message):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3), np.float32))
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        FileSamples(path, [InputSpec("x", np.dtype("float32"), (None, 3))])


def test_rows_apart_are_read_past_those_between(tmp_path):
    rows = np.arange(40).reshape(20, 2)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "d.npz", x=rows)
        stored = StoredRows(tmp_path / "d.npz", "x")
        for start, stop in ((2, 4), (4, 5), (9, 12), (15, 16), (1, 3), (18, 20)):
            np.testing.assert_array_equal(stored[start:stop], rows[start:stop])
        stored.close()
