"""Labels that lie apart from the samples: label images, how they are found, cut and refused."""

from __future__ import annotations

import numpy as np
import pytest
from snn_compile.compiler.errors import DataError
from snn_compile.compiler.samples.base import InputSpec
from snn_compile.compiler.samples.image_options import ImageOptions
from snn_compile.compiler.samples.label_files import read_label_path
from snn_compile.compiler.samples.source import Source

Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'snn-compile[images]'")

F32 = np.dtype(np.float32)
LABELS = np.random.default_rng(0).integers(0, 200, (3, 4, 6), dtype=np.uint8)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if mode == "P":
        image = Image.fromarray(array, "L").convert("P")
        image.putdata(array.reshape(-1).tolist())
    image.save(path)


def labels_of(folder, labels, size=(4, 6), **options):
    spec = InputSpec("x", F32, (None, 3, *size))
    source = Source(folder, images=ImageOptions(pixel_scale=255, **options))
    try:
        ((_, rows),) = read_label_path(labels, source.open([spec]))
        assert rows[:].shape == rows.shape
        return rows[:]
    finally:
        source.close()


@pytest.fixture
def images(tmp_path):
    for number in range(3):
        save(tmp_path / "images" / f"{number}.jpg", np.zeros((4, 6, 3), np.uint8))
    return tmp_path / "images"


@pytest.mark.parametrize("name", ["{}.png", "{}_L.png", "{}_gtFine_labelIds.png"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_label_images_have_the_names_of_the_images(tmp_path, images, name, mode):
    for number, array in enumerate(LABELS):
        save(tmp_path / "labels" / name.format(number), array, mode)
    save(tmp_path / "labels" / "10.png", LABELS[0])
    np.testing.assert_array_equal(labels_of(images, tmp_path / "labels"), LABELS)


def test_label_images_of_subfolders_and_of_16_bits(tmp_path):
    wide = LABELS.astype(np.uint16) * 300
    for number, array in enumerate(wide):
        save(tmp_path / "images" / "town" / f"{number}.png", np.zeros((4, 6, 3), np.uint8))
        save(tmp_path / "labels" / "town" / f"{number}.png", array)
    np.testing.assert_array_equal(labels_of(tmp_path / "images", tmp_path / "labels"), wide)


def test_label_images_are_cut_and_scaled_as_their_images_without_new_values(tmp_path):
    save(tmp_path / "images" / "a.png", np.zeros((8, 20, 3), np.uint8))
    own = np.repeat(np.repeat(LABELS[0], 2, axis=0), 2, axis=1)  # 8 x 12
    save(tmp_path / "labels" / "a.png", np.pad(own, ((0, 0), (4, 4))))
    found = labels_of(tmp_path / "images", tmp_path / "labels")
    np.testing.assert_array_equal(found, LABELS[:1])
    found = labels_of(tmp_path / "images", tmp_path / "labels", resize="stretch")
    assert found.shape == (1, 4, 6) and set(found.flat) <= {0, *LABELS[0].flat}


def test_labels_that_have_the_size_of_the_input_are_taken_as_they_are(tmp_path):
    save(tmp_path / "images" / "a.png", np.zeros((9, 11, 3), np.uint8))
    save(tmp_path / "labels" / "a.png", LABELS[0])
    np.testing.assert_array_equal(labels_of(tmp_path / "images", tmp_path / "labels"), LABELS[:1])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_labels_in_a_file_of_arrays(tmp_path, images, suffix):
    path = tmp_path / f"l.{suffix}"
    np.save(path, LABELS) if suffix == "npy" else np.savez(path, labels=LABELS)
    np.testing.assert_array_equal(labels_of(images, path), LABELS)


def refused(message, images, labels):
    with pytest.raises(DataError, match=message):
        labels_of(images, labels)


def test_what_is_refused(tmp_path, images):
    labels = tmp_path / "labels"
    labels.mkdir()
    refused("no such file or folder", images, tmp_path / "nothing")
    refused("holds no PNG image", images, labels)
    save(labels / "0.png", LABELS[0])
    save(labels / "1.png", LABELS[1])
    refused(r"holds none for the image 2.jpg, expected 2.png, or one whose", images, labels)
    save(labels / "2_a.png", LABELS[2])
    save(labels / "2_b.png", LABELS[2])
    refused(r"holds several \(2_a.png, 2_b.png\) for the image 2.jpg", images, labels)
    (labels / "2_b.png").unlink()
    save(labels / "2_a.png", np.zeros((4, 6, 3), np.uint8))
    refused(r"2_a.png: is an image in colours \(mode RGB\)", images, labels)
    save(labels / "2_a.png", np.zeros((5, 5), np.uint8))
    refused("2_a.png: is 5x5, and its image 2.jpg is 4x6", images, labels)
    (labels / "2_a.png").write_bytes(b"no image")
    refused("2_a.png: is no readable PNG image", images, labels)
    (tmp_path / "labels.txt").write_text("")
    refused("expected labels as .npy, .npz", images, tmp_path / "labels.txt")


def test_a_folder_of_label_images_is_for_images(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros((3, 2), np.float32))
    source = Source(tmp_path / "d.npy")
    samples = source.open([InputSpec("x", F32, (None, 2))])
    with pytest.raises(DataError, match="is for samples that are images"):
        read_label_path(tmp_path, samples)
