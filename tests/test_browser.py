"""The page of docs/browser: what prepare.py writes for it, and what it shows in Chromium."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench_web
import chromium
import numpy as np
import onnx
import pytest
from onnx import helper
from snn_compile.compiler import CompileOptions, compile_model
from snn_compile.compiler.errors import DataError, ModelError
from snn_compile.compiler.model_io.load import read_model
from snn_compile.compiler.model_io.save import save_network
from snn_compile.compiler.running.expose import with_outputs
from snn_compile.compiler.running.session import make_session
from snn_compile.passes.graph.network import constants_of, detach
from snn_compile.passes.lowering.function_bodies import function_bodies
from snn_compile.passes.lowering.spikes_of_integers import integers_by_neuron
from snn_compile.passes.lowering.spiking_form import spiking_form
from snn_compile.runtime_ops.operators import neurons_of

REPOSITORY = Path(__file__).parent.parent
FOLDER = REPOSITORY / "docs" / "browser"
MODELS = REPOSITORY / "models"
ANN, TEST = MODELS / "digits_resnet_dynamo.onnx", MODELS / "digits_test.npz"
OPTIONS = {
    "onnxruntime": CompileOptions(),
    "int8": CompileOptions(target="int8"),
    "standard": CompileOptions(target="standard"),
    "timesteps": CompileOptions(timesteps=2),
}

sys.path.insert(0, str(FOLDER))
try:
    import prepare
finally:
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The bundled network, compiled with each of the options."""
    folder, paths = tmp_path_factory.mktemp("compiled"), {}
    for name, options in OPTIONS.items():
        result = compile_model(ANN, MODELS / "digits_calibration.npz", options)
        paths[name] = folder / f"{name}.onnx"
        save_network(result.network, paths[name])
    return paths


@pytest.fixture(scope="module")
def site(compiled, tmp_path_factory):
    """A folder with the page, and the networks in folders of the options' names."""
    folder = tmp_path_factory.mktemp("site")
    for name, path in compiled.items():
        assert prepare.prepare(ANN, path, TEST, folder, name) == []
    return folder


def spikes_by_hand(path, images):
    """The neurons' k, from the file's own tensors: by the neuron's name, of all images."""
    network = read_model(path)
    constants = constants_of(network)
    integers = integers_by_neuron(network)
    if integers:
        nodes = {node.name: node for node in network.proto.graph.node}
        zeros = {name: int(constants[nodes[name].input[2]]) for name in integers}
        proto = onnx.ModelProto()
        proto.CopyFrom(network.proto)
        del proto.graph.output[:]
        for tensor in integers.values():
            value = helper.make_tensor_value_info(tensor, onnx.TensorProto.UINT8, None)
            proto.graph.output.append(value)
        values = make_session(type(network)(proto, network.weights)).run(None, {"image": images})
        pairs = zip(zeros.items(), values, strict=True)
        return {name: integers.astype(int) - zero for (name, zero), integers in pairs}
    network = function_bodies(spiking_form(network))
    constants, neurons = constants_of(network), neurons_of(network.proto)
    session = make_session(with_outputs(network, [n.output[0] for n in neurons]), library=False)
    values = session.run(None, {"image": images})
    steps = [constants[neuron.input[1]] for neuron in neurons]
    return {
        neuron.name: np.rint(value / step).astype(int)
        for neuron, value, step in zip(neurons, values, steps, strict=True)
    }


@pytest.mark.parametrize("options", OPTIONS)
def test_the_copy_gives_the_scores_and_the_spikes_of_every_neuron(options, compiled, site):
    described = json.loads((site / options / "network.json").read_text())
    given = json.loads((site / options / "samples.json").read_text())["samples"]
    with np.load(TEST) as archive:
        images, labels = archive["image"][:16], archive["labels"][:16]
    assert [sample["label"] for sample in given] == labels.tolist()
    shape = described["input"]["shape"]
    read = np.float32([sample["values"] for sample in given]).reshape(-1, *shape)
    np.testing.assert_array_equal(read, images)
    assert (described["input"]["low"], described["input"]["high"]) == (images.min(), images.max())

    feed = {described["input"]["name"]: images}
    for name, copied in (("ann", ANN), ("snn", compiled[options])):
        paths = site / options / f"{name}.onnx", copied
        sessions = [make_session(read_model(path), library=False) for path in paths]
        np.testing.assert_array_equal(*(session.run(None, feed)[0] for session in sessions))
    copy = make_session(read_model(site / options / "spikes.onnx"), library=False)
    scores, *spikes = copy.run(
        [described["output"], *(neuron["output"] for neuron in described["neurons"])], feed
    )
    plain = make_session(read_model(compiled[options]), library=False)
    np.testing.assert_array_equal(scores, plain.run([described["output"]], feed)[0])
    expected = spikes_by_hand(compiled[options], images)
    assert [neuron["name"] for neuron in described["neurons"]] == list(expected)
    for values, k in zip(spikes, expected.values(), strict=True):
        assert values.dtype == np.float32 and k.any()
        np.testing.assert_array_equal(values, k)


def network(text):
    return detach(onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text))


def test_spikes_that_are_an_output_already_are_given_twice(compiled):
    """A neuron of step 1 whose values the network gives out: no output has a name twice."""
    model = read_model(compiled["onnxruntime"])
    neuron = neurons_of(model.proto)[0]
    for tensor in model.proto.graph.initializer:
        if tensor.name == neuron.input[1]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1), tensor.name))
    fired = helper.make_tensor_value_info(neuron.output[0], onnx.TensorProto.FLOAT, None)
    model.proto.graph.output.append(fired)
    copy, outputs = prepare.with_spikes(model)
    with np.load(TEST) as archive:
        feed = {"image": 9 * archive["image"][:2]}
    session = make_session(copy, library=False)
    values, k = session.run([neuron.output[0], outputs[neuron.name]], feed)
    assert values.any()
    np.testing.assert_array_equal(values, k)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g (float[N] x, float[N] w) => (float[N] y) { y = Add (x, w) }", "one input of float32"),
        ("g (int64[N, 2] x) => (int64[N, 2] y) { y = Neg (x) }", r"x \(int64\)"),
        ("g (float[4, 2] x) => (float[4, 2] y) { y = Neg (x) }", "one sample at a time"),
        ("g (float[N, 2] x) => (float[N, 2] y) { y = Neg (x) }", "no neurons"),
    ],
)
def test_networks_that_the_page_cannot_feed_are_refused(text, said, tmp_path):
    file, data, site = tmp_path / "g.onnx", tmp_path / "data.npz", tmp_path / "site"
    save_network(network(text), file)
    kind = np.int64 if "int64" in text else np.float32
    shape = (8,) if "float[N] x" in text else (8, 2)
    np.savez(data, x=np.ones(shape, kind), w=np.ones(shape, kind))
    with pytest.raises(ModelError, match=said):
        prepare.prepare(file, file, data, site, "g")
    assert not site.exists()


def test_no_samples_are_refused(compiled, tmp_path):
    with pytest.raises(DataError, match="--samples 0"):
        prepare.prepare(ANN, compiled["int8"], TEST, tmp_path, "g", most=0)


def test_the_command_says_what_to_open_and_what_is_refused(compiled, tmp_path, monkeypatch, capsys):
    given = ["--data", str(TEST), "--samples", "2", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(ANN), str(compiled["int8"]), *given])
    prepare.main()
    assert "open ?model=int8" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "int8" / "samples.json").read_text())["samples"]) == 2
    for file in ("index.html", "page.js"):
        assert (tmp_path / file).read_bytes() == (FOLDER / file).read_bytes()
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(ANN), str(tmp_path / "none.onnx"), *given])
    with pytest.raises(SystemExit) as stop:
        prepare.main()
    assert stop.value.code == 3 and "none.onnx" in capsys.readouterr().err


STATUS = "document.getElementById('status').textContent"
WRONG = "document.getElementById('status').className == 'wrong'"
SCORES = """[...document.getElementById('scores').rows].map((row) =>
  [row.cells[0], row.cells[2], row.cells[3]].map((cell) => cell.textContent))"""
LARGEST = """[2, 3].map((column) => [...document.getElementById('scores').rows]
  .find((row) => row.cells[column].className == 'largest').cells[0].textContent)"""
LAYERS = """[...document.getElementById('layers').rows].map((row) =>
  [...row.cells].map((cell) => cell.textContent))"""
UPLOAD = """{
  const files = new DataTransfer();
  files.items.add(new File([%s], "mine.json"));
  const input = document.getElementById("file");
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
}"""


@pytest.fixture(scope="module")
def installed():
    """The paths of a browser and of onnxruntime-web."""
    try:
        return bench_web.browser_path(), bench_web.dist().parent
    except bench_web.MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def page(installed):
    with chromium.page_in(installed[0], *bench_web.FLAGS) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(installed, site):
    """The page's, with onnxruntime-web beside it."""
    (site / "ort" / "node_modules").mkdir(parents=True)
    (site / "ort" / "node_modules" / "onnxruntime-web").symlink_to(installed[1])
    with chromium.serving(site) as there:
        yield there


def show(page, address, query):
    page.errors.clear()
    page.go(address + query)
    page.wait(f"{STATUS}.endsWith(': ready') || {WRONG}")


def clear_samples(path, images):
    """The positions of those on which no potential is so near to a threshold that another order
    of sums could move it across: there a browser has other spikes, as another processor has."""
    snn = read_model(path)
    constants, neurons = constants_of(snn), neurons_of(snn.proto)
    session = make_session(with_outputs(snn, [n.input[0] for n in neurons]), library=False)
    clear = []
    for i in range(len(images)):
        values = session.run(None, {"image": images[i : i + 1]})
        # Thresholds of octaves are half-way between whole steps, or at whole steps.
        halves = [2 * x / constants[n.input[1]] for x, n in zip(values, neurons, strict=True)]
        if min(np.abs(u - np.rint(u))[u > 0.5].min() for u in halves) > 2e-5:
            clear.append(i)
    return clear


@pytest.mark.slow
def test_the_page_shows_what_the_networks_give(page, address, compiled):
    with np.load(TEST) as archive:
        images = archive["image"][:16]
    show(page, address, "?model=onnxruntime")
    assert page.value(STATUS) == "onnxruntime: ready"
    sessions = [make_session(read_model(path)) for path in (ANN, compiled["onnxruntime"])]
    spikes = spikes_by_hand(compiled["onnxruntime"], images)
    clear = clear_samples(compiled["onnxruntime"], images)
    assert len(clear) >= 8
    for i in range(len(images)):
        page.wait(f"{STATUS}.includes('sample {i},') || {STATUS}.endsWith('ready')")
        scores = [session.run(None, {"image": images[i : i + 1]})[0][0] for session in sessions]
        if i in clear:
            assert page.value(LARGEST) == [str(values.argmax()) for values in scores]
            assert [row[0] for row in page.value(SCORES)] == [str(c) for c in range(10)]
            shown = np.float64([row[1:] for row in page.value(SCORES)])
            np.testing.assert_allclose(shown, np.stack(scores, 1), rtol=1e-3, atol=1e-4)
            rows = page.value(LAYERS)
            expected = [
                [name, str(k[i].size), str(np.abs(k[i]).sum())] for name, k in spikes.items()
            ]
            assert [[row[0], row[3], row[4]] for row in rows] == expected
            rounded = [[float(row[5]), float(row[6].removesuffix(" %"))] for row in rows]
            means = [[np.abs(k[i]).mean(), 100 * (k[i] == 0).mean()] for k in spikes.values()]
            off = np.abs(np.subtract(rounded, means))
            assert np.all(off <= [0.00501, 0.0501])  # two digits, one
        page.value("document.getElementById('next').click()")
        page.wait(f"{STATUS}.includes('sample {(i + 1) % 16},')")
    assert page.errors == []


@pytest.mark.slow
def test_the_page_shows_integers_as_spikes(page, address, compiled):
    with np.load(TEST) as archive:
        image = archive["image"][:1]
    show(page, address, "?model=int8")
    expected = spikes_by_hand(compiled["int8"], image)
    rows = {row[0]: int(row[4]) for row in page.value(LAYERS)}
    assert rows == {name: np.abs(k).sum() for name, k in expected.items()}
    assert page.errors == []


@pytest.mark.slow
def test_times_are_measured(page, address):
    show(page, address, "?model=onnxruntime")
    for _ in range(2):
        shown = page.value("document.getElementById('latency').textContent").split()
        assert (shown[0], shown[2], shown[3]) == ("ANN", "ms,", "SNN")
        assert float(shown[1]) > 0 and float(shown[4]) > 0
        page.value("document.getElementById('latency').replaceChildren()")
        page.value("document.getElementById('measure').click()")
        page.wait(f"document.getElementById('latency').textContent && {STATUS}.endsWith('ready')")
    assert page.errors == []


@pytest.mark.slow
def test_a_digit_is_drawn(page, address):
    show(page, address, "?model=onnxruntime")
    box = page.value("document.getElementById('ink').getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 3, box["y"] + box["height"] / 4
    page.drag((x, y), (x, y + 20), (x, y + 60))
    page.wait(f"{STATUS}.endsWith('drawing')")
    assert page.value(LARGEST) == ["1", "1"]  # a stroke from the top to the bottom
    assert page.errors == []


@pytest.mark.slow
def test_other_samples_are_read_or_refused(page, address):
    show(page, address, "?model=onnxruntime")
    with np.load(TEST) as archive:
        image, label = archive["image"][20], int(archive["labels"][20])
    mine = {"samples": [{"values": image.ravel().tolist(), "label": label}]}
    page.value(UPLOAD % json.dumps(json.dumps(mine)))
    page.wait(f"{STATUS}.endsWith('sample 0, label {label}')")
    assert page.value(LARGEST) == [str(label)] * 2
    for text, said in (('{"samples": [{"values": [1]}]}', "64 numbers"), ("{", "is not JSON")):
        page.value(UPLOAD % json.dumps(text))
        page.wait(f"{WRONG} && {STATUS}.includes('{said}')")
        assert page.value(STATUS).startswith("mine.json: ")
    assert page.errors == []


@pytest.mark.slow
def test_what_cannot_be_loaded_is_said_on_the_page(page, address, site):
    show(page, address, "?model=nowhere/")
    said = page.value(STATUS)
    assert said.startswith(f"{address}nowhere/network.json: cannot be loaded (404)")
    assert page.value("document.getElementById('result').hidden")
    broken = site / "broken"
    broken.mkdir(exist_ok=True)
    for file in (site / "int8").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "snn.onnx").write_bytes(b"no model")
    page.value(
        "document.getElementById('model').value = 'broken'; "
        "document.querySelector('form button').click()"
    )
    page.wait(f"{WRONG} && {STATUS}.includes('broken/snn.onnx: onnxruntime-web cannot run it')")
    # What is right still opens.
    page.value(
        "document.getElementById('model').value = 'int8'; "
        "document.querySelector('form button').click()"
    )
    page.wait(f"{STATUS} == 'int8: ready'")


@pytest.mark.slow
def test_a_page_without_the_runtime_says_how_to_install_it(page, compiled, tmp_path):
    prepare.prepare(ANN, compiled["int8"], TEST, tmp_path, "int8")
    with chromium.serving(tmp_path) as there:
        show(page, there, "?model=int8")
        assert "npm install --prefix ort onnxruntime-web" in page.value(STATUS)
        page.go(there)
        page.wait(f"{STATUS}.startsWith('Give the folder of a network')")
