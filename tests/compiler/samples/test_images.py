"""Folders of images: how pixels become values, where labels come from, and what is refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from snn_compile.compiler import cli, eval_cli
from snn_compile.compiler.errors import DataError, UsageError
from snn_compile.compiler.samples.base import InputSpec
from snn_compile.compiler.samples.image_options import ImageOptions, recorded, resolve
from snn_compile.compiler.samples.source import Source

Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'snn-compile[images]'")

F32 = np.dtype(np.float32)
RGB = InputSpec("x", F32, (None, 3, 4, 6))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
UNIT = ImageOptions(pixel_scale=255)


def save(path, array, **known):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **known)


def read(path, spec=RGB, options=UNIT):
    source = Source(path, images=options)
    try:
        samples = source.open([spec])
        feeds = [feed["x"].copy() for feed in samples.batches(2)]
        return np.concatenate(feeds), samples
    finally:
        source.close()


def refusal(error, message, path, spec=RGB, options=UNIT):
    with pytest.raises(error, match=message):
        read(path, spec, options)


@pytest.fixture
def folder(tmp_path):
    """Five images without loss."""
    for number, array in enumerate(PIXELS):
        save(tmp_path / "images" / f"{number}.png", array)
    return tmp_path / "images"


def nchw(values):
    return np.moveaxis(values, -1, 1)


IMAGENET = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
CAFFE = np.float32([103.939, 116.779, 123.68])
FLOATS = PIXELS.astype(np.float32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (UNIT, FLOATS / 255),
        (ImageOptions(pixel_scale=1), FLOATS),
        (ImageOptions(preset="imagenet"), (FLOATS / 255 - IMAGENET[0]) / IMAGENET[1]),
        (ImageOptions(preset="tf"), FLOATS / np.float32(127.5) - 1),
        (ImageOptions(preset="caffe"), FLOATS[..., ::-1] - CAFFE),
        (
            ImageOptions(preset="caffe", channel_order="rgb", mean=1, std=(1, 2, 4)),
            (FLOATS - 1) / np.float32([1, 2, 4]),
        ),
        (
            ImageOptions(pixel_scale=2, channel_order="bgr", mean=[1, 2, 3]),
            FLOATS[..., ::-1] / 2 - np.float32([1, 2, 3]),
        ),
    ],
)
def test_values(folder, options, expected):
    found, samples = read(folder, RGB, options)
    assert (found.dtype, samples.count) == (F32, 5)
    np.testing.assert_array_equal(found, nchw(expected))
    found, _ = read(folder, RGB._replace(shape=(None, 4, 6, 3)), options)
    np.testing.assert_array_equal(found, expected)
    half = RGB._replace(dtype=np.dtype(np.float16))
    assert read(folder, half, options)[0].dtype == np.float16


def test_integers_take_pixels_as_they_are(folder):
    for kind in (np.uint8, np.int32, np.int64):
        found, _ = read(folder, RGB._replace(dtype=np.dtype(kind)), None)
        assert found.dtype == kind
        np.testing.assert_array_equal(found, nchw(PIXELS))
    spec = RGB._replace(dtype=np.dtype(np.uint8))
    refusal(
        UsageError,
        "--preset: the input 'x' takes pixels as they are",
        folder,
        spec,
        ImageOptions(preset="tf"),
    )
    refusal(
        DataError,
        "do not go into the input 'x' of int8",
        folder,
        spec._replace(dtype=np.dtype("i1")),
    )


def test_grey_and_colour(tmp_path, folder):
    grey = np.asarray(Image.fromarray(PIXELS[0]).convert("L"))
    save(tmp_path / "grey" / "a.png", grey)
    expected = grey.astype(np.float32) / 255
    found, _ = read(tmp_path / "grey")
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (1, 3, 4, 6)))
    for shape in ((None, 1, 4, 6), (1, 4, 6, 1), (None, 4, 6), (1, 4, 6)):
        for path in (tmp_path / "grey", folder):
            found, samples = read(path, RGB._replace(shape=shape))
            assert found[0].shape == shape[1:]
            np.testing.assert_array_equal(found[0].reshape(4, 6), expected)
            assert samples.preprocessing["channel_order"] == "grey"
    refusal(
        UsageError,
        "3 numbers for 1 channels",
        folder,
        RGB._replace(shape=(None, 1, 4, 6)),
        ImageOptions(preset="imagenet"),
    )


def test_modes_that_lose_nothing(tmp_path):
    first = Image.fromarray(PIXELS[0])
    palette = first.quantize(4)
    palette.save(tmp_path / "palette.png")
    first.convert("1").save(tmp_path / "bits.png")
    opaque = first.copy()
    opaque.putalpha(255)
    opaque.save(tmp_path / "rgba.png")
    found, _ = read(tmp_path)
    wanted = [first.convert("1").convert("RGB"), palette.convert("RGB"), first]
    expected = np.stack([np.asarray(one) for one in wanted]).astype(np.float32) / 255
    np.testing.assert_array_equal(found, nchw(expected))


def test_jpegs_of_every_suffix(tmp_path):
    smooth = np.tile(np.linspace(40, 200, 6, dtype=np.uint8)[:, None], (4, 1, 3))
    for name in ("a.jpg", "b.jpeg", "c.JPG", "d.JPEG"):
        save(tmp_path / name, smooth, format="JPEG", quality=95)
    save(tmp_path / "e.PNG", smooth, format="PNG")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    found, samples = read(tmp_path)
    assert samples.count == 5
    assert np.abs(found - found[4]).max() < 4 / 255


def test_resizing(tmp_path):
    """A wide image of three colours: the middle, or all."""
    wide = np.zeros((4, 18, 3), np.uint8)
    wide[:, 6:12] = 100
    wide[:, 12:] = 200
    save(tmp_path / "a.png", wide)
    found, samples = read(tmp_path, options=ImageOptions(pixel_scale=1))
    assert (found == 100).all()
    assert samples.preprocessing["resize"] == "crop"
    found, _ = read(tmp_path, options=ImageOptions(pixel_scale=1, resize="stretch"))
    assert found[0, 0, 0, 0] == 0 and found[0, 0, 0, -1] == 200
    big = np.repeat(np.repeat(PIXELS[:1], 8, 1), 8, 2)
    save(tmp_path / "a.png", big[0])
    found, _ = read(tmp_path, options=ImageOptions(pixel_scale=1))
    assert found.shape == (1, 3, 4, 6)


def test_sizes_that_the_model_leaves_open(folder):
    free = RGB._replace(shape=(None, 3, None, None))
    assert read(folder, free)[0].shape == (5, 3, 4, 6)
    assert read(folder, free, ImageOptions(pixel_scale=1, size=8))[0].shape == (5, 3, 8, 8)
    assert read(folder, free, ImageOptions(pixel_scale=1, size=(2, 3)))[0].shape == (5, 3, 2, 3)
    save(folder / "9.png", PIXELS[0][:3])
    refusal(DataError, "9.png: its size is another than that of 0.png.*give --size", folder, free)
    refusal(
        UsageError,
        "--size 8x8: the input 'x' is 4x6; leave it out",
        folder,
        RGB,
        ImageOptions(pixel_scale=1, size=8),
    )


def test_layouts_that_the_shape_does_not_say(folder):
    free = RGB._replace(shape=(None, None, None, None))
    refusal(UsageError, r"\['\?', '\?', '\?', '\?'\] .* give --layout nchw or nhwc", folder, free)
    found, _ = read(folder, free, ImageOptions(pixel_scale=1, layout="nhwc"))
    np.testing.assert_array_equal(found, FLOATS)
    both = RGB._replace(shape=(None, 3, 4, 3))
    refusal(UsageError, "does not say where its 1 or 3 channels are", folder, both)
    refusal(
        UsageError,
        "--layout nhwc: .* no 1 or 3 channels so",
        folder,
        RGB,
        ImageOptions(pixel_scale=1, layout="nhwc"),
    )
    flat = RGB._replace(shape=(None, 72))
    refusal(UsageError, r"the input 'x' \['\?', 72\] is no image", folder, flat)
    refusal(UsageError, "does not say where", folder, RGB._replace(shape=(None, 5, 4, 6)))


def test_without_a_word_on_values_images_are_refused(folder):
    message = "how pixels become the values of 'x' is not in the model: give --preset imagenet"
    refusal(UsageError, message, folder, options=None)
    refusal(UsageError, message, folder, options=ImageOptions(mean=0.5, std=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "keras"}, "--preset 'keras' cannot be used; give imagenet, tf or caffe"),
        ({"mean": (1, 2)}, "--mean: 2 numbers for 3 channels"),
        ({"mean": float("nan")}, "--mean nan cannot be used; give finite numbers"),
        ({"std": (1, 0, 1)}, r"--std \(1, 0, 1\) cannot be used; give finite numbers above 0"),
        ({"pixel_scale": 0}, "--pixel-scale 0 cannot be used"),
        ({"pixel_scale": "255"}, "--pixel-scale '255' cannot be used"),
        ({"size": 0}, "--size 0 cannot be used; give the height"),
        ({"size": (1, 2, 3)}, "cannot be used; give the height"),
        ({"layout": "hwc"}, "--layout 'hwc' cannot be used; give nchw or nhwc"),
    ],
)
def test_options_that_cannot_be_used(folder, options, message):
    refusal(UsageError, message, folder, options=ImageOptions(**{"pixel_scale": 1, **options}))


def test_subfolders_are_classes(tmp_path):
    for name, count in (("dog", 2), ("cat", 1), ("10", 1)):
        for number in range(count):
            save(tmp_path / name / "deep" / f"{number}.png", PIXELS[number])
    (tmp_path / ".cache").mkdir()
    _, samples = read(tmp_path)
    ((_, labels),) = samples.label_parts()
    assert (list(samples.classes), labels.tolist()) == (["10", "cat", "dog"], [0, 1, 2, 2])


def test_labels_in_a_csv(folder):
    table = folder / "labels.csv"
    table.write_text("file,label\n" + "".join(f"{4 - i}.png,{i}\n" for i in range(5)))
    found, samples = read(folder)  # images in name order
    np.testing.assert_array_equal(found, nchw(FLOATS) / 255)
    assert samples.label_parts()[0][1].tolist() == [4, 3, 2, 1, 0]
    found, samples = read(table)  # in the order of the lines
    np.testing.assert_array_equal(found, nchw(FLOATS[::-1]) / 255)
    assert samples.label_parts()[0][1].tolist() == [0, 1, 2, 3, 4]
    table.write_text("\ufeff0.png, dog\n3.png, cat\n\n", "utf-8")
    _, samples = read(table)
    assert (samples.count, samples.classes) == (2, ["cat", "dog"])
    assert samples.label_parts()[0][1].tolist() == [1, 0]
    refusal(DataError, "labels.csv: has no line for 1.png; add it, or give the CSV itself", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no images"),
        ("file,label\n", "lists no images"),
        ("0.png\n", "line 1 is no file name and class"),
        ("0.png,\n", "line 1 is no file name and class"),
        ("0.png,1\n7.png,1\n", "line 2: '7.png' is no PNG or JPEG file in"),
        ("0.png,1\n0.png,2\n", "lists 0.png twice"),
        ("0.png,1\nnotes.txt,2\n", "line 2: 'notes.txt' is no PNG or JPEG"),
        (b"\xff\xfe\x00", "is no readable CSV"),
    ],
)
def test_a_csv_that_is_none(folder, text, message):
    (folder / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    refusal(DataError, message, folder / "a.csv")
    refusal(DataError, message, folder)


def test_folders_that_say_two_things(tmp_path):
    save(tmp_path / "a.png", PIXELS[0])
    save(tmp_path / "more" / "b.png", PIXELS[1])
    refusal(DataError, "holds images, and so does .*more; give a folder of images, or", tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "empty").mkdir()
    refusal(DataError, "empty: holds no PNG or JPEG image, and would be class 0", tmp_path)
    for name in ("x.csv", "y.csv"):
        (tmp_path / name).write_text("")
    refusal(DataError, r"holds several CSV files \(x.csv, y.csv\)", tmp_path)


def transparent(path):
    array = np.dstack([PIXELS[0], np.full((4, 6), 255, np.uint8)])
    array[2, 2, 3] = 0
    save(path, array)


def deep(path):
    save(path, (PIXELS[0, ..., 0].astype(np.uint16) * 256))


def cut(path, kind="PNG"):
    save(path, np.tile(PIXELS[0], (20, 20, 1)), format=kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flipped(path):
    save(path, np.tile(PIXELS[0], (20, 20, 1)))
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (transparent, "a part of it is transparent; save it on a background"),
        (deep, r"more than 8 bits per channel \(mode I;16\); save it with 8"),
        (cut, "is no readable image: .*; save it again, or leave it out"),
        (lambda path: cut(path, "JPEG"), "is no readable image: .*truncated"),
        (flipped, "is no readable image: "),
        (lambda path: path.write_bytes(b""), "neither PNG nor JPEG, or damaged"),
        (lambda path: path.write_text("hello"), "neither PNG nor JPEG, or damaged"),
        (lambda path: Image.fromarray(PIXELS[0]).save(path, format="GIF"), "neither PNG nor JPEG"),
    ],
)
def test_images_that_cannot_be_used_are_named(folder, write, message):
    write(folder / "3.png")
    refusal(DataError, r"3\.png: .*" + message, folder)


def test_folders_without_images(tmp_path):
    refusal(DataError, "no .npz or .npy file, and no PNG or JPEG image; save", tmp_path)
    np.save(tmp_path / "a.npy", FLOATS)
    refusal(
        UsageError,
        "holds no images, on which --pixel-scale has an effect",
        tmp_path,
        RGB._replace(shape=(None, 4, 6, 3)),
    )


def test_models_of_several_inputs(folder):
    with pytest.raises(DataError, match=r"images feed models of one input, and this one has 2"):
        Source(folder, images=UNIT).open([RGB, RGB._replace(name="y")])


def test_without_pillow(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    refusal(UsageError, r"needs pillow: install the extra 'images'", folder)


def test_what_is_recorded_gives_the_same():
    for options in (UNIT, ImageOptions(preset="caffe", resize="stretch")):
        for shape in ((None, 3, 4, 6), (None, 1, None, None), (None, 4, 6)):
            if options.preset and shape[1] != 3:
                options = ImageOptions(preset="tf")
            pixels = resolve(options, "x", shape, True)
            again = recorded(json.dumps(pixels.as_json()))
            if again.size is not None and None not in shape[1:]:
                assert list(again.size) == [4, 6]
            assert resolve(again, "x", shape, True) == pixels
    for text in ("", "{}", "[]", '{"pixel_scale": 0}', "null", '"x"'):
        assert recorded(text) is None


NET = """g (float[N,3,4,6] x) => (float[N,2] y) <float[4,3,3,3] w, float[4,2] v> {
    a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu (a)
    c = GlobalAveragePool (b) d = Flatten (c) y = MatMul (d, v) }"""


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_both_commands_on_images(tmp_path, folder):
    """How pixels become values is recorded, taken over by snn-eval, and warned of."""
    onnx.save(model_from_text(NET), tmp_path / "net.onnx")
    for number, array in enumerate(PIXELS):
        save(tmp_path / "test" / ("cat", "dog")[number % 2] / f"{number}.png", array)
    net, snn = tmp_path / "net.onnx", tmp_path / "snn.onnx"
    arguments = [net, "-o", snn, "--calibration", folder, "--report", tmp_path / "r.json"]
    result = run(cli.main, *arguments)
    assert result.exit_code == 2 and "give --preset imagenet" in result.stderr
    result = run(cli.main, *arguments, "--preset", "imagenet", "--std", "0.2,0.3,0.4")
    assert result.exit_code == 0, result.output
    known = json.loads((tmp_path / "r.json").read_text())["calibration"]["preprocessing"]
    assert (known["std"], known["size"], known["layout"]) == ([0.2, 0.3, 0.4], [4, 6], "nchw")

    measured = [net, snn, "--data", tmp_path / "test", "--no-latency"]
    result = run(eval_cli.main, *measured)
    assert result.exit_code == 0, result.output
    assert "classes: 0 cat, 1 dog\n" in result.stdout
    assert "std [0.2, 0.3, 0.4]" in result.stdout
    assert "warning" not in result.stderr
    result = run(eval_cli.main, *measured, "--preset", "tf", "--json")
    assert "the SNN was calibrated on images prepared otherwise: " in result.stderr
    data = json.loads(result.stdout)["data"]
    assert (data["classes"], data["preprocessing"]["pixel_scale"]) == (["cat", "dog"], 127.5)


def test_images_beside_arrays(tmp_path, folder):
    """Of data and calibration one is images, and the options are of it."""
    onnx.save(model_from_text(NET), tmp_path / "net.onnx")
    np.savez(tmp_path / "arrays.npz", x=nchw(FLOATS) / 255)
    for data, calibration in ((folder, tmp_path / "arrays.npz"), (tmp_path / "arrays.npz", folder)):
        arguments = ["--data", data, "--calibration", calibration, "--pixel-scale", 255]
        result = run(eval_cli.main, tmp_path / "net.onnx", *arguments, "--no-latency", "--no-flips")
        assert result.exit_code == 0, result.output


def test_numbers_on_the_command_line(tmp_path):
    for given in (("--mean", "a,b"), ("--size", "4by5"), ("--preset", "keras"), ("--size", "")):
        result = run(cli.main, "net.onnx", "-o", tmp_path / "a.onnx", *given)
        assert result.exit_code == 2
        assert given[0] in result.stderr
    result = run(cli.main, "net.onnx", "-o", tmp_path / "a.onnx", "--size", "360x480")
    assert result.exit_code == 2
    assert "options of images are of data, and there are none" in result.stderr


def test_classes_that_are_called_by_other_numbers(tmp_path):
    onnx.save(model_from_text(NET.replace("2", "3")), tmp_path / "net.onnx")
    for number, name in enumerate(("0", "10", "2")):
        save(tmp_path / "test" / name / "a.png", PIXELS[number])
    arguments = [tmp_path / "net.onnx", tmp_path / "net.onnx", "--data", tmp_path / "test"]
    result = run(eval_cli.main, *arguments, "--no-latency", "--pixel-scale", 255)
    assert "class '10' is number 1, by the order of the names as text" in result.stderr


PICTURES = [Image.fromarray(array) for array in PIXELS]
LABELS = np.arange(5)
FORMS = {
    "pictures one by one": PICTURES,
    "with labels": list(zip(PICTURES, LABELS.tolist(), strict=True)),
    "rows with names": [{"x": p, "labels": n} for p, n in zip(PICTURES, LABELS, strict=True)],
    "batches": [{"x": PICTURES[i : i + 2]} for i in range(0, 5, 2)],
    "batches as tuples": [(PICTURES[i : i + 2], LABELS[i : i + 2]) for i in range(0, 5, 2)],
    "a mapping": {"x": PICTURES},
}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_in_python_are_those_of_a_folder(form, folder):
    expected, of_folder = read(folder)
    source = Source(FORMS[form], images=UNIT)
    samples = source.open([RGB])
    got = np.concatenate([feed["x"] for feed in samples.batches(2)])
    np.testing.assert_array_equal(got, expected)
    assert samples.preprocessing == of_folder.preprocessing
    labels = [rows[:].tolist() for _, rows in samples.label_parts() if rows is not None]
    source.close()
    labelled = any(word in form for word in ("labels", "names", "tuples"))
    assert [n for part in labels for n in part] == (LABELS.tolist() if labelled else [])


def test_pictures_in_python_are_prepared_as_a_file_records_it():
    source = Source([{"x": picture} for picture in PICTURES])
    source.prepare_images(json.dumps(resolve(UNIT, "x", RGB.shape, True).as_json()))
    samples = source.open([RGB])
    np.testing.assert_array_equal(
        np.concatenate([feed["x"] for feed in samples.batches(5)]), nchw(FLOATS / np.float32(255))
    )


def test_pictures_in_python_that_cannot_be_used():
    with pytest.raises(UsageError, match="how pixels become the values of 'x' is not in the model"):
        read(PICTURES, options=None)
    with pytest.raises(UsageError, match="holds no images, on which --pixel-scale has an effect"):
        read([FLOATS.transpose(0, 3, 1, 2)])
    open_ = RGB._replace(shape=(None, 3, None, None))
    smaller = PICTURES[1].resize((3, 2))
    with pytest.raises(DataError, match="images of several sizes"):
        read([{"x": [PICTURES[0], smaller]}], open_)
    through = PICTURES[0].convert("RGBA")
    through.putalpha(7)
    with pytest.raises(DataError, match="batch 0: array 'x': a part of it is transparent"):
        read([through])
