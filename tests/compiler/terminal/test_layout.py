"""Tables that fit the page: names that stay apart, cells that stay whole."""

from __future__ import annotations

import pytest
from snn_compile.compiler.terminal import NAME, TEXT, WHOLE, Column, show_table
from snn_compile.compiler.terminal.layout import one_line, pieces, plain, shortened, wrapped

#: Names as exporters write them; of each kind, all begin and end alike.
TORCH = [
    f"/model/backbone/features/features.{i}/conv/conv.{j}/Relu" for i in range(9) for j in (0, 1)
]
KERAS = [
    f"StatefulPartitionedCall/mobilenet/conv_dw_{i}_relu/Relu6;StatefulPartitionedCall/mobilenet/bn"
    for i in range(12)
]
JAX = [f"jit(apply)/ResNet/Block_{i}/Conv_0/jit(relu)/max_output_0" for i in range(8)]
FAR_APART = [
    f"{'a' * 120}{i}{'b' * 120}{j}{'c' * 120}{k}{'d' * 120}"
    for i in range(2)
    for j in range(2)
    for k in range(2)
]
INTERVAL = "98.89 [97.2, 99.6]"


def lines(columns, rows, width, **known):
    return [
        line for piece in pieces(columns, rows, width, **known) for line in plain(piece, indent="")
    ]


@pytest.mark.parametrize("names", [TORCH, KERAS, JAX], ids=["torch", "keras", "jax"])
@pytest.mark.parametrize("width", [20, 30, 60])
def test_shortened_names_fit_and_differ(names, width):
    short = shortened(names, width)
    assert short is not None
    assert len(set(short)) == len(set(names))
    assert all(len(name) <= width for name in short)


def test_names_that_fit_stay_and_others_lose_their_front():
    assert shortened(["a", "b"], 5) == ["a", "b"]
    assert shortened(["/layer1/Relu_1"], 8) == ["…/Relu_1"]
    assert shortened(["x", "x"], 3) == ["x", "x"]


def test_no_name_is_like_another_or_it_is_said():
    assert shortened(FAR_APART, 20) is None
    assert shortened(["same beginning 1", "same beginning 2"], 1) is None


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "names", [TORCH, KERAS, JAX, FAR_APART], ids=["torch", "keras", "jax", "far"]
)
def test_a_table_of_long_names_fits_and_its_rows_differ(names, width):
    columns = [Column("neuron", NAME), Column("top-1, %"), Column("drop"), Column("MACs")]
    rows = [[name, INTERVAL, "-0.28 [-1.04, 0.49]", "40,551,040"] for name in names]
    shown = lines(columns, rows, width)
    assert all(len(line) <= width for line in shown)
    (piece,) = pieces(columns, rows, width)
    assert len({row[0] for row in piece.rows}) == len(names)
    assert all(row[1:] == rows[0][1:] for row in piece.rows)
    if names is FAR_APART:
        assert [row[0].replace("\n", "") for row in piece.rows] == names


def test_what_does_not_fit_side_by_side_is_divided_and_begins_with_the_names():
    columns = [Column("output", NAME), Column("network", NAME)]
    columns += [Column(f"column {i}") for i in range(8)]
    rows = [["logits", "ANN", *[INTERVAL] * 8], ["", "SNN", *[INTERVAL] * 8]]
    found = pieces(columns, rows, 80)
    assert len(found) == 4
    assert all(
        [row[:2] for row in piece.rows] == [["logits", "ANN"], ["", "SNN"]] for piece in found
    )
    assert [title for piece in found for title in piece.titles[2:]] == [
        f"column {i}" for i in range(8)
    ]
    assert all(len(line) <= 80 for line in lines(columns, rows, 80))


@pytest.mark.parametrize(
    ("cells", "trivial", "there"),
    [
        (["", ""], "", False), (["-", ""], "", False), (["1", "1"], "1", False),
        (["1", "2"], "1", True), (["1", "1"], "", True), (["", "0.1%"], "", True),
    ],
)  # fmt: skip
def test_columns_without_content_are_left_out(cells, trivial, there):
    columns = [Column("neuron", NAME), Column("theta", WHOLE, trivial), Column("N")]
    (piece,) = pieces(columns, [["a", cells[0], "32"], ["b", cells[1], "32"]], 80)
    assert ("theta" in piece.titles) == there


def test_sentences_are_wrapped_and_titles_at_their_spaces():
    columns = [Column("node", NAME), Column("spikes per value"), Column("reason", TEXT)]
    rows = [["n", "0.12", "reads the network's own input, which nothing encodes " * 3]]
    (piece,) = pieces(columns, rows, 60)
    assert piece.titles[1] == "spikes\nper\nvalue"
    assert " ".join(piece.rows[0][2].split()) == rows[0][2].strip()
    assert all(len(line) <= 60 for line in lines(columns, rows, 60))


def test_without_a_page_everything_is_whole():
    columns = [Column("node", NAME), Column("reason", TEXT)]
    rows = [[KERAS[0], "because " * 50]]
    (piece,) = pieces(columns, rows, None)
    assert piece.rows == rows


def test_names_of_a_model_stay_on_their_line():
    assert one_line("a\nb\x1b[31m\u202eä") == "a\\nb\\x1b[31m\\u202eä"
    assert wrapped("one two three", 8, "  ") == "one two\n  three"


@pytest.mark.parametrize("width", [80, 120])
def test_tables_on_the_terminal_fit_its_columns(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["neuron", "replaces", "N", "theta", "error", "silent values", "spikes per value"]
    rows = [[name, "Relu", "32", "0.0055..0.1083", "2.757%", "38.8%", "7.12"] for name in TORCH]
    show_table("a title " * 20, columns, rows)
    text = capsys.readouterr().out
    assert all(len(line) <= width for line in text.splitlines())
    assert text.count("0.0055..0.1083") == len(rows)
    monkeypatch.delenv("COLUMNS")
    show_table("", columns, rows)
    whole = capsys.readouterr().out
    assert all(name in whole for name in TORCH)


def test_a_table_without_rows_is_its_title(capsys):
    show_table("nothing", ["a", "b"], [])
    assert capsys.readouterr().out == "nothing\n"
