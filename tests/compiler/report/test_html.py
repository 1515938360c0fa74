"""The report as a page: what is in it, that it is safe to open, and that it is one small file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import made_up_results as made_up
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from snn_compile.compiler.cli import main
from snn_compile.compiler.errors import UsageError
from snn_compile.compiler.evaluation.sweep import mark_pareto
from snn_compile.compiler.report.html import compile_html, evaluation_html
from snn_compile.compiler.report.html.chosen import MOST_CHOSEN, choose
from snn_compile.compiler.report.reader import read_report
from snn_compile.compiler.report.results import Confusion, ErrorMap, Estimate, ImageBoxes, Metric

pytest.importorskip("jinja2", reason="needs the extra 'report'")
pytest.importorskip("matplotlib", reason="needs the extra 'report'")

from snn_compile.compiler.report.html.figures import (
    Point,
    boxes_figure,
    confusion_figure,
    layer_errors_figure,
    map_figure,
    neuron_figure,
    points_figure,
    sweep_figure,
    timesteps_figure,
)
from snn_compile.compiler.report.html.numbers import count, energy, percent, seconds
from snn_compile.compiler.report.html.page import Table
from snn_compile.compiler.report.html.svg import short, told_apart, with_prefix

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = (
    "<script>alert(1)</script> $\\frac{ & \" ' \N{SNOWMAN} \u4e2d\u6587 \x07 \n</style><img src=x>"
)
TINY = """
    g (float[N, 4] x) => (float[N, 3] scores) <float[4, 8] w1, float[8, 3] w2> {
        h = MatMul (x, w1)
        a = Relu (h)
        scores = MatMul (a, w2)
    }
"""


class Page(HTMLParser):
    """A page, taken apart; fails where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


def sections(page):
    return [attributes["id"] for attributes in page.all("section")]


@pytest.fixture(scope="module")
def whole():
    """Everything there can be."""
    points = [made_up.point(0.8, 1e6, "levels=4", pareto=["unary"]), made_up.point(0.9, 2e6)]
    return evaluation_html(made_up.evaluation(sweep=points), made_up.compilation())


@pytest.fixture(scope="module")
def compiled():
    return compile_html(made_up.compilation(), "snn-compile ann.onnx -o snn.onnx")


def test_a_page_has_every_section_that_there_are_data_for(whole, compiled):
    assert sections(Page(whole)) == [
        "summary", "accuracy", "sweep", "layer-errors", "firing", "premise", "energy", "chosen",
        "latency", "clipping", "coverage", "reproduce", "compilation",
    ]  # fmt: skip
    assert sections(Page(compiled)) == [
        "summary", "fidelity", "layer-errors", "neurons", "chosen", "clipping", "coverage",
        "steps", "compilation",
    ]  # fmt: skip


def test_sections_without_data_are_left_out():
    bare = made_up.evaluation(
        neurons=[], energy=None, latency=[], baselines=[], flips_outputs=[], warnings=[],
        premise=None, outputs=[made_up.embedding()],
    )  # fmt: skip
    page = Page(evaluation_html(bare))
    assert sections(page) == ["summary", "accuracy", "reproduce"]
    assert "Energy was not estimated" in page.text and "Latency was not measured" in page.text
    report = replace(made_up.compilation(), verification=None, neurons=[], layer_errors=None)
    assert sections(Page(compile_html(report))) == ["summary", "coverage", "steps", "compilation"]


def test_the_page_says_what_the_result_does(whole):
    text = Page(whole).text
    for expected in (
        "90.00 % [89.0, 91.0]",  # top-1
        "ANN 91.00 % [90.0, 92.0]",
        "88.00 % [87.0, 89.0]",  # of the baseline
        "1.00 [-0.10, 2.00]",  # drop, in points
        "6 nJ",  # unary
        "a note",
        "a source",
        "reads the network's own input",
        "1 ms",
        "4 timesteps against one step",
        "7.00 %",  # differ from the network of one step
        "something to know",
        "snn-eval ann.onnx snn.onnx --data test.npz",
        "compiler, version0.1.0",
        "2" * 64,
    ):
        assert expected in text


def test_the_page_has_the_metrics_of_a_task():
    metric = Metric("mIoU", Estimate(0.57, 0.5, 0.6), Estimate(0.6, 0.5, 0.7), Estimate(0.03, 0, 1))
    output = replace(made_up.embedding("maps"), metrics=[metric])
    result = replace(made_up.evaluation(outputs=[output], baselines=[]), task="segmentation")
    text = Page(evaluation_html(result)).text
    assert "Segmentation" in text and "mIoU x 100" in text
    for shown in ("57.00 [50.00, 60.00]", "60.00 [50.00, 70.00]", "3.00 [0.00, 100.00]"):
        assert shown in text


def test_the_page_loads_nothing_and_runs_its_own_few_lines_alone(whole, compiled):
    for html in (whole, compiled):
        page = Page(html)
        assert not page.all("link") and not page.all("img") and not page.all("image")
        assert page.all("script") == [{}]
        (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
        assert len(script) < 4000
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = next(m for m in page.all("meta") if "http-equiv" in m)
        assert policy["content"] == (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        )
        for tag, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on")], tag
            for name in ("href", "src", "xlink:href"):
                assert attributes.get(name, "#").startswith("#")
        assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_the_page_is_accessible(whole, compiled):
    for html in (whole, compiled):
        page = Page(html)
        assert len(page.all("h1")) == 1 and page.all("html") == [{"lang": "en"}]
        assert len(page.all("table")) == len(page.all("caption")) > 0
        for svg in page.all("svg"):
            assert svg["role"] == "img" and svg["aria-label"]
        assert len(page.all("svg")) == len(page.all("figcaption")) > 0
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(set(ids)) == len(ids)
        linked = re.findall(r'(?:href="|url\(|aria-labelledby=")#?([\w-]+)', html)
        assert set(linked) <= set(ids) and linked


def test_figures_take_the_colours_of_the_page(whole):
    figures = "".join(re.findall(r"<svg.*?</svg>", whole, re.DOTALL))
    assert "var(--series-1)" in figures and "var(--ink)" in figures
    assert re.findall(r"#[0-9a-f]{6}\b", figures) == []
    used = set(re.findall(r"var\((--[\w-]+)\)", whole))
    style = whole[whole.index("<style>") : whole.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark", 1)
    dark, printed = dark.split("@media print", 1)
    for part in (light, dark, printed):
        assert used <= set(re.findall(r"(--[\w-]+):", part))


def hostile(value):
    """The same result with other texts in all places that come from outside."""
    if isinstance(value, str):
        return value if value in made_up.ACCOUNTINGS else value + HOSTILE
    if isinstance(value, dict):
        return {hostile(key): hostile(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(hostile(item) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{k: hostile(v) for k, v in vars(value).items()})
    return value


def script_of(html):
    """The only script."""
    assert Page(html).all("script") == [{}]
    return re.findall(r"<script>.*?</script>", html, re.DOTALL)


def test_texts_of_the_model_are_only_text(whole, compiled):
    points = [made_up.point(0.8, 1e6)]
    result = hostile(made_up.evaluation(sweep=points))
    bad = evaluation_html(result, hostile(made_up.compilation()))
    also_bad = compile_html(hostile(made_up.compilation()), HOSTILE)
    for html, good in ((bad, whole), (also_bad, compiled)):
        page = Page(html)
        assert "<script>alert(1)</script>" in page.text  # as text
        assert script_of(html) == script_of(good) and not page.all("img")
        kinds = {tag for tag, _ in page.elements}
        assert kinds <= {tag for tag, _ in Page(good).elements} | {"g", "use"}
        figures = re.findall(r"<text.*?</text>", html, re.DOTALL)
        assert all(c.isprintable() or c == "\n" for c in "".join(figures))


def test_the_same_result_gives_the_same_bytes(compiled):
    again = compile_html(made_up.compilation(), "snn-compile ann.onnx -o snn.onnx")
    assert again == compiled


def test_the_page_stays_small_however_large_the_network():
    names = [f"a rather long name of a layer in a deep network/{i}" for i in range(300)]
    result = made_up.evaluation(
        neurons=[made_up.neuron(name, 255) for name in names],
        energy=made_up.energies([made_up.synapse(name, name) for name in names]),
    )
    report = made_up.compilation()
    report.neurons = [
        replace(report.neurons[0], name=n, membrane=made_up.membrane(255)) for n in names
    ]
    result.neurons = [replace(n, clip_rate=i / 300) for i, n in enumerate(result.neurons)]
    for i, synapse in enumerate(result.energy.synapses):
        synapse.energy["unary"] = 1e3 * (i % 100)
    for i, line in enumerate(report.neurons):
        line.error = i % 200 / 300
    one = report.layer_errors.neurons[0]
    errors = [replace(one, name=name, single=i / 300) for i, name in enumerate(names)]
    report.layer_errors = replace(report.layer_errors, neurons=errors)
    html = evaluation_html(result, report)
    page = Page(html)
    # Two outputs, errors, firing, energy.
    assert len(page.all("svg")) == 2 + 1 + 4 + MOST_CHOSEN
    assert "The 60 of 300 that cost most alone" in page.text
    assert "The first 60 of 300" in page.text and "The 60 with most energy, of 300" in page.text
    assert all(f"network/{i}" in page.text for i in range(300))  # tables have all
    assert len(html.encode()) < 2e6


def test_odd_values_do_not_stop_the_page():
    output = replace(made_up.embedding(), max_abs=math.inf, relative_l2=math.inf, cosine=math.nan)
    silent = replace(
        made_up.neuron("one"), spikes_per_value=0.0, active=0.0, level_counts=[0], clip_rate=None
    )
    nothing = made_up.synapse("layer", "one", 0.0)
    result = made_up.evaluation(
        outputs=[output],
        neurons=[silent],
        energy=made_up.energies([nothing]),
        baselines=[],
        sweep=[made_up.point(None, None), made_up.point(0.5, math.nan)],
    )
    page = Page(evaluation_html(result))
    assert "inf" in page.text and "chosen" not in sections(page)
    empty = made_up.evaluation(energy=made_up.energies([]), outputs=[], versions={}, ann={}, snn={})
    assert "energy" in sections(Page(evaluation_html(empty)))


# What is drawn


def lines(svg):
    """x and y ranges of the straight lines in a figure's series."""
    found = []
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', svg):
        if "series" in style and path.count("L") == 1:
            x = [float(v) for v in re.findall(r"[ML] ([\d.]+)", path)]
            found.append(abs(x[1] - x[0]))
    return found


def test_intervals_are_drawn_to_scale():
    points = [Point("one", 15, 10, 20), Point("two", 25, 10, 40), Point("three", 15)]
    short_one, long_one = lines(points_figure("title", {"top-1": points}))
    assert long_one == pytest.approx(3 * short_one, rel=1e-3)


def test_a_neuron_is_drawn_with_its_thresholds_levels_and_spikes():
    def figure(membrane, shares):
        return neuron_figure("title", membrane, shares, 0, "test")

    def bars(svg):  # heights of the steps in the colour of the counts
        (path,) = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--series-1\)', svg)
        y = [float(v) for v in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
        base = y[0]
        return [base - v for v in y if v < base][::2]

    both = figure(made_up.membrane(8), [0.5, 0.0, 0.25, 0.25])
    high, *others = bars(both)
    assert others == pytest.approx([high / 2] * 2, rel=1e-3)
    (thresholds,) = re.findall(
        r'<path d="([^"]*)"[^>]*stroke: var\(--grid\); stroke-width: 0.7', both
    )
    assert thresholds.count("M") == 8
    (staircase,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-2\)', both)
    assert staircase.count("L") == 2 * 9 + 1  # a run and a rise for each level, and both ends
    assert "at calibration" in both and "membrane potential / theta" in both
    alone = figure(None, [0.5, 0.5])
    assert len(bars(alone)) > 0 and "membrane" not in alone
    assert "90 %" not in alone and "90 %" in figure(None, [0.9, 0.05, 0.05])  # is cut off
    many = replace(made_up.membrane(), thresholds=[], levels=[], level_shares=[])
    assert "at calibration" in figure(many, [1.0])


def test_a_sweep_is_drawn_with_its_front():
    points = [made_up.point(0.8, 1e6), made_up.point(0.7, 3e6), made_up.point(0.9, 1e7)]
    names = ("levels=2", "levels=4", "levels=8")
    points = [replace(point, label=name) for name, point in zip(names, points, strict=True)]
    points = mark_pareto([*points, made_up.point(None, 1e6, "nothing")])
    baseline = made_up.point(0.85, 2e6, "int8")
    svg = sweep_figure("title", points, [baseline], "unary")
    labels = re.findall(r">([^<>\n]*)</text>", svg)
    assert [x for x in labels if x[:2] == "N=" or x in ("nothing", "int8")] == [
        "N=2", "N=4", "N=8", "int8",
    ]  # fmt: skip
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-1\); stroke-width: 1.2', svg)
    assert len([p for p in paths if p.count("L") == 1]) == 1  # from the first to the third
    free = [made_up.point(0.8, 0.0), made_up.point(0.9, 1e6)]  # 0 is on no logarithmic axis
    assert "estimated energy" in sweep_figure("title", free, [], "unary")


def test_points_of_a_sweep_have_labels_that_do_not_lie_on_one_another():
    points = [
        replace(made_up.point(0.8 + 0.01 * i, 1e6 * (1 + i)), label=f"target=int8 levels={i}")
        for i in range(4)
    ]
    crowd = [replace(made_up.point(0.9, 5e6), label=f"levels={i}") for i in range(60)]
    labels = re.findall(r">([^<>\n]*)</text>", sweep_figure("title", points, [], "unary"))
    assert [f"int8 N={i}" for i in range(4)] == [x for x in labels if x.startswith("int8")]
    svg = sweep_figure("title", crowd, [], "unary")
    labels = re.findall(r">(N=[^<>\n]*)</text>", svg)
    assert 1 <= len(labels) < 9
    assert len(re.findall(r"<title>levels=\d+: top-1, % 90, 5 µJ</title>", svg)) == 60


def test_accuracy_over_timesteps_has_a_line_for_each_other_setting():
    points = [
        replace(
            made_up.point(0.8, 1e6),
            label=f"timesteps={steps} levels={levels}",
            setting={"timesteps": steps, "levels": levels},
        )
        for levels in (1, 2)
        for steps in (1, 4, 16)
    ]
    svg = timesteps_figure("title", [*points, made_up.point(0.5, 1.0)])
    texts = re.findall(r">([^<>\n]*)</text>", svg)
    assert {"N=1", "N=2", "1", "4", "16", "timesteps T"} <= set(texts)
    assert len(re.findall("<title>levels=2 T = 16: top-1, % 80</title>", svg)) == 1
    assert "timesteps T" in timesteps_figure("title", points[:3])


def test_errors_of_layers_are_bars_and_a_line():
    found = made_up.compilation().layer_errors.neurons
    lost = replace(found[0], name="lost", single=math.inf, cumulative=math.inf)
    svg = layer_errors_figure("title", [*found, lost])
    for neuron in found:
        assert f"<title>{neuron.name} alone: {neuron.single:.3%}</title>" in svg
        assert f"<title>{neuron.name} and all before it: {neuron.cumulative:.3%}</title>" in svg
    assert "lost alone" not in svg and ">lost</text>" in svg


def test_confused_classes_are_coloured():
    confusion = Confusion(40, [3, 7], [[9, 2, 0], [0, 8, 1], [0, 0, 5]])
    svg = confusion_figure("title", confusion, ["3", "7", "others"])
    assert "<title>ANN 3, SNN 7: 2 samples</title>" in svg
    assert "<title>ANN 7, SNN others: 1 samples</title>" in svg
    assert svg.count("fill: var(--series-2)") == 2 and "ANN 7, SNN 3" not in svg


def test_a_map_is_drawn_in_shades():
    values = [[0.0, 0.5], [1.0, 0.25]]
    svg = map_figure("title", values, "error")
    assert "error, at most 1<" in svg
    assert len(re.findall(r'<path d="[^"]*"[^>]*fill: var\(--series-2\)', svg)) == 3
    assert "at most 0<" in map_figure("title", [[0.0, 0.0]], "error")


def test_where_outputs_differ_is_shown():
    output = made_up.classes()
    output.confusion = Confusion(40, [3, 7], [[9, 2, 0], [0, 8, 1], [0, 0, 5]])
    places = made_up.embedding()
    places.error_map = ErrorMap([8, 8], [[0.1] * 8] * 8, [[0.5] * 8] * 8)
    text = Page(evaluation_html(made_up.evaluation(outputs=[output, places]))).text
    assert "Of 40 classes those that are confused most" in text
    assert "8 x 8: root mean square of the difference between SNN and ANN, by place" in text
    assert "share of samples in which another channel is the largest" in text


def test_boxes_are_drawn():
    output = made_up.embedding()
    ann, other = [1.0, 2.0, 30.0, 20.0, 0.9, 3.0], [2.0, 2.0, 31.0, 20.0, 0.7, 3.0]
    output.boxes = [ImageBoxes(5, [32, 48], [ann, ann], [other]), ImageBoxes(7, [32, 48], [], [])]
    text = Page(evaluation_html(made_up.evaluation(outputs=[output]))).text
    assert "sample 5: boxes with a score above 0.5, 2 of ANN, 1 of SNN." in text
    assert "sample 7: boxes with a score above 0.5, 0 of ANN, 0 of SNN." in text
    svg = boxes_figure("title", output.boxes[0])
    assert svg.count("ANN: class 3, score 0.90") == 2 and "SNN: class 3, score 0.70" in svg
    assert "stroke-dasharray" in svg


def test_the_chosen_have_most_of_something():
    names = [f"n{i}" for i in range(9)]
    measures = {
        "energy": {"n8": 5.0, "n2": 4.0, "n3": 3.0, "elsewhere": 9.0},
        "clipping": {"n2": 0.1, "n4": math.nan, "n5": 0.0},
        "error": {},
    }
    assert choose(names, measures) == {
        "n2": "most clipping, second most energy",
        "n8": "most energy",
    }
    many = {what: {n: float(hash((what, n)) % 97 + 1) for n in names} for what in "abcdefgh"}
    assert len(choose(names, many)) <= MOST_CHOSEN
    equal = {"energy": dict.fromkeys(names, 1.0)}
    assert list(choose(names, equal)) == ["n0", "n1"]


def test_numbers():
    assert percent(0.98765) == "98.77 %" and percent(None) == "-" == percent(math.nan)
    assert count(12345.6) == "12,346" and count(3.0) == "3" and count(2.5) == "2.50"
    assert [energy(e) for e in (2.0, 2.5e3, 2.5e6, 2.5e9)] == ["2 pJ", "2.5 nJ", "2.5 µJ", "2.5 mJ"]
    assert [seconds(t) for t in (1.5, 0.0012, 8.25e-5)] == ["1.5 s", "1.2 ms", "82.5 µs"]


def test_labels_of_figures_are_short_ascii():
    assert short("/block/Relu") == "/block/Relu"
    assert short("/block.12/" + "x" * 30 + "/Relu_1") == "/block.12/xx..xxx/Relu_1"
    assert short("\u4e2d\n<b>") == "??<b>"
    formula = points_figure("title", {"x": [Point("$\\frac{1$", 1)]})
    assert ">$\\frac{1$</text>" in formula  # no TeX


@pytest.mark.parametrize(
    "pattern",
    [
        "/layer{i}/layer{i}.{j}/conv1/Conv",
        "model/block_{i}_{j}/depthwise_convolution/FusedBatchNormV3",
        "jit(main)/Model/Layers_{i}/Dense_{j}/dot_general/very_long",
        "a_long_beginning_that_all_names_share_{i}{j}_and_a_long_end_that_they_share",
        "/encoder/layer.{i}/attention/self/query/MatMul_with_a_long_name_between/{j}",
    ],
)
def test_labels_of_different_layers_are_different(pattern):
    names = [pattern.format(i=i, j=j) for i in range(1, 12) for j in range(3)]
    labels = told_apart(names)
    assert len(set(labels)) == len(names) and max(map(len, labels)) <= 50  # two gaps of two dots
    assert told_apart(["a", "b", "a"]) == ["a", "b", "a"]


def test_columns_without_content_are_left_out():
    table = Table("c", ["a", "b\t", "c", "d\t"], [["", "-", "x", "1"], ["-", "", "-", "-"]])
    left = table.with_content()
    assert list(left.header) == ["a", "c", "d\t"] and left.rows[0] == ["", "x", "1"]
    assert left.is_number(2) and not left.is_number(1)


def test_ids_of_one_figure_are_its_own():
    svg = '<svg><clipPath id="a"/><g id="b"/><path clip-path="url(#a)"/><use href="#a"/></svg>'
    assert with_prefix(svg, "f1-") == (
        '<svg><clipPath id="f1-a"/><g/><path clip-path="url(#f1-a)"/><use href="#f1-a"/></svg>'
    )


# The command


@pytest.fixture
def files(tmp_path):
    model = model_from_text(TINY)
    model.graph.node[1].name = HOSTILE
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(32, 4)).astype("f4"))
    return tmp_path


def snn_compile(folder, report):
    arguments = [folder / "m.onnx", "-o", folder / "s.onnx", "--calibration", folder / "c.npz"]
    return CliRunner().invoke(main, [*map(str, arguments), "--report", str(folder / report)])


def test_the_command_writes_a_page_or_json_by_the_name(files):
    for name in ("r.HTML", "r.json", "r.txt"):
        result = snn_compile(files, name)
        assert result.exit_code == 0, result.stderr
    page = Page((files / "r.HTML").read_text("utf-8"))
    assert {"chosen", "coverage"} <= set(sections(page))
    reports = [json.loads((files / name).read_text()) for name in ("r.json", "r.txt")]
    membrane = reports[0]["neurons"][0]["membrane"]
    assert sum(membrane["shares"]) + membrane["below"] + membrane["above"] == pytest.approx(
        1, abs=1e-4
    )
    assert reports[0]["neurons"] == reports[1]["neurons"]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_its_packages_a_page_is_refused_at_once(files, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = snn_compile(files, "r.html")
    assert result.exit_code == 2 and result.stdout == ""
    assert f"needs {package}: pip install 'snn-compile[report]'" in result.stderr
    assert sorted(path.name for path in files.iterdir()) == ["c.npz", "m.onnx"]
    assert snn_compile(files, "r.json").exit_code == 0
    with pytest.raises(UsageError, match=r"snn-compile\[report\]"):
        evaluation_html(made_up.evaluation())


# Reports that were written as JSON


def test_a_report_is_read_back(files, compiled, tmp_path):
    path = tmp_path / "r.json"
    path.write_text(made_up.compilation().to_json())
    assert compile_html(read_report(path), "snn-compile ann.onnx -o snn.onnx") == compiled
    assert snn_compile(files, "real.json").exit_code == 0
    again = read_report(files / "real.json")
    assert again.to_json() == (files / "real.json").read_text()
    assert again.neurons[0].membrane.unit == "scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["neurons"][0].pop("name"), "the report.neurons[0].name is not there"),
        (lambda r: r.update(neurons={}), "the report.neurons is not a list"),
        (lambda r: r.update(version=1), "the report.version is not of type str"),
        (lambda r: r["neurons"][0].update(error="x"), "neurons[0].error is not a number"),
        (lambda r: r["neurons"][0].update(levels=True), "neurons[0].levels is not of type int"),
        (lambda r: r["neurons"][0]["membrane"].update(shares=[[]]), "shares[0] is not a number"),
        (lambda r: r.update(coverage=[]), "the report.coverage is not an object"),
        (lambda r: r.update(settings=3), "the report.settings is not an object"),
        (lambda r: r["neurons"][0].update(error=1 << 5000), "error is not a number of that size"),
        (lambda r: r["neurons"][1]["membrane"].update(low=None), "[1].membrane is not a histogram"),
        (lambda r: r["neurons"][0]["membrane"].update(high=-4), "membrane is not a histogram"),
        (lambda r: r["neurons"][0]["membrane"].update(shares=[]), "membrane is not a histogram"),
        (lambda r: r["neurons"][0]["membrane"]["levels"].pop(), "membrane is not a histogram"),
        (lambda r: r["neurons"][0]["membrane"]["thresholds"].reverse(), "is not a histogram"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, change, message):
    content = json.loads(made_up.compilation().to_json())
    content["of another release"] = 1  # is ignored
    (tmp_path / "r.json").write_text(json.dumps(content))
    read_report(tmp_path / "r.json")
    change(content)
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=re.escape(message)):
        read_report(tmp_path / "r.json")


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_refused(tmp_path, data):
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(UsageError, match="is not readable as JSON"):
        read_report(tmp_path / "r.json")
    with pytest.raises(UsageError, match="is not readable as JSON"):
        read_report(tmp_path / "none.json")
