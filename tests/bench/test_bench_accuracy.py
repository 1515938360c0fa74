"""The accuracy benchmark's arithmetic, tables and cache; what it measures is not run here."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import accuracy_worker
import bench_accuracy
import numpy as np
import pytest
import shared_networks
from accuracy_configuration import Configuration, pack, unpack
from accuracy_page import identity, replace_block, table
from accuracy_tables import TABLES, Plan, Row, Section, all_off
from sentences import known_pieces, split_sentences, word_pieces
from shared_networks import EFFICIENTNET, KEYWORDS, MINILM, NETWORKS, RESNET
from snn_compile.compiler.options import CompileOptions
from snn_compile.compiler.targets import resolve


def bits(text):
    return np.array([c == "1" for c in text])


def classes(ann, snn, same):
    return {
        "samples": len(ann),
        "ann": pack(bits(ann)),
        "snn": pack(bits(snn)),
        "same": pack(bits(same)),
    }


def configuration(**changes):
    plain = Configuration("compile", KEYWORDS.name, 0, 4, 8, {"levels": 8})
    return dataclasses.replace(plain, **changes)


# Tables


def test_bits_survive_packing():
    values = bits("10010110111")
    np.testing.assert_array_equal(unpack(pack(values), 11), values)


def test_a_row_of_classes():
    row = Row(("net", "8"), (configuration(), configuration(seed=1)))
    results = {
        identity(configuration()): classes("1111", "1110", "1110"),
        identity(configuration(seed=1)): classes("1111", "1111", "1111"),
    }
    lines = table(Section("classes", ("network", "N"), (row,)), results, {})
    assert lines[0].startswith("| network | N | ANN top-1, % | SNN top-1, % | drop, points |")
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[:2] == ["net", "8"]
    assert cells[2].startswith("100.00 [51.0, 100.0]")
    assert cells[3].startswith("87.50 [")
    assert cells[4].startswith("12.50 [")
    assert cells[5:] == ["0.00 to 25.00", cells[6], "2"]
    assert cells[6].startswith("87.50 [")
    assert len(cells) == lines[0].count("|") - 1


def test_a_row_of_embeddings():
    row = Row(("net",), (configuration(),))
    results = {identity(configuration()): {"cosine": [0.9, 1.0]}}
    line = table(Section("embeddings", ("network",), (row,)), results, {})[2]
    assert line == "| net | 0.9500 [0.8520, 1.0480] | 0.9500 to 0.9500 | 0.9000 | 1 |"


def test_a_row_of_boxes():
    row = Row(("net",), (configuration(),))
    results = {identity(configuration()): {"f1": [0.5, 1.0]}}
    line = table(Section("boxes", ("network",), (row,)), results, {})[2]
    assert line == "| net | 0.7500 [0.2600, 1.2400] | 0.7500 to 0.7500 | 0.5000 | 1 |"


def test_a_row_of_pixels():
    row = Row(("net",), (configuration(), configuration(seed=1)))
    results = {
        identity(configuration()): {
            "score": [0.58, 0.56], "drop": [0.02, 0.01, 0.03], "pixels": 0.9,
        },
        identity(configuration(seed=1)): {
            "score": [0.58, 0.57], "drop": [0.01, 0.0, 0.02], "pixels": 0.92,
        },
    }  # fmt: skip
    line = table(Section("pixels", ("network",), (row,)), results, {})[2]
    assert line == "| net | 58.00 | 56.50 | 1.50 [0.50, 2.50] | 1.00 to 2.00 | 91.00 | 2 |"


def test_a_row_of_pairs():
    row = Row(("net",), (configuration(),))
    results = {identity(configuration()): {"score": [0.86, 0.865], "drop": [-0.005, -0.01, 0.0]}}
    line = table(Section("pairs", ("network",), (row,)), results, {})[2]
    assert line == "| net | 86.00 | 86.50 | -0.50 [-1.00, 0.00] | -0.50 to -0.50 | 1 |"


def test_scores_are_those_of_the_tasks():
    ann = np.zeros((2, 12, 1, 2), np.float32)
    ann[0, 3] = ann[1, 4] = 1
    snn = ann.copy()
    snn[1, 5] = 2
    labels = np.array([[[3, 11]], [[4, 4]]], np.uint8)  # 11 is no label
    found = accuracy_worker.compare(NETWORKS["camvid_espnet"], ann, snn, labels)
    assert found["score"] == pytest.approx([1, 1 / 3])  # classes 3, 4 and 5
    assert found["drop"][0] == pytest.approx(2 / 3)
    assert found["pixels"] == 0.5


def test_pairs_are_scored_by_the_order_of_their_cosines():
    left, near, far = [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]
    ann = np.array([left, near, left, far, left, [1.0, 1.0]])
    snn = np.array([left, far, left, near, left, [1.0, 1.0]])
    found = accuracy_worker.compare(NETWORKS["minilm_images"], ann, snn, np.array([5.0, 0.0, 2.0]))
    assert found["score"] == pytest.approx([1, -1])


@pytest.mark.parametrize("figures", ["classes", "embeddings", "pairs", "boxes", "pixels"])
def test_a_row_without_results_says_why(figures):
    row = Row(("net",), (configuration(), configuration(seed=1)))
    section = Section(figures, ("network",), (row,))
    lines = table(section, {}, {})
    assert lines[2].startswith("| net | not measured |")
    assert lines[2].endswith("| 0 of 2 |")
    assert lines[2].count("|") == lines[0].count("|")
    lines = table(section, {}, {identity(configuration()): "failed: a | b"})
    assert lines[2].startswith("| net | failed: a / b |")


def test_a_row_with_some_seeds_says_how_many():
    row = Row(("net",), (configuration(), configuration(seed=1)))
    results = {identity(configuration()): {"cosine": [1.0, 1.0]}}
    assert table(Section("embeddings", ("network",), (row,)), results, {})[2].endswith("| 1 of 2 |")


def test_the_text_around_a_table_stays():
    a = "<!-- table: a -->\nold \\1\n<!-- end: a -->"
    page = f"before\n{a}\nafter\n<!-- table: b -->\n<!-- end: b -->"
    changed = replace_block(page, "a", "new \\1\n")
    assert changed == page.replace("old", "new")
    assert replace_block(changed, "a", "new \\1") == changed


@pytest.mark.parametrize(
    "page",
    [
        "no markers",
        "<!-- table: a -->",
        "<!-- end: a --> <!-- table: a -->",
        "<!-- table: a --><!-- end: a --><!-- table: a --><!-- end: a -->",
    ],
)
def test_a_page_without_markers_is_refused(page):
    with pytest.raises(ValueError, match="needs <!-- table: a -->"):
        replace_block(page, "a", "new")


def test_the_page_has_the_markers_of_every_table():
    page = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8")
    for name in TABLES:
        replace_block(page, name, "")


# What is measured


PLAN = Plan(tuple(NETWORKS.values()), (0, 1, 2))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("quick", [False, True])
def test_the_options_of_every_row_exist(name, quick):
    sections = TABLES[name](dataclasses.replace(PLAN, quick=quick))
    assert sections
    for section in sections:
        for row in section.rows:
            assert len(row.labels) == len(section.labels)
            assert [c.seed for c in row.configurations] == [0, 1, 2]
            for c in row.configurations:
                if c.what != "quantise":
                    resolve(c.compile_options(), synthetic=not c.calibration)


@pytest.mark.parametrize("name", TABLES)
def test_networks_that_are_absent_have_no_rows(name):
    assert TABLES[name](Plan((), (0,))) == []
    sections = TABLES[name](Plan((EFFICIENTNET,), (0,)))
    networks = {c.network for s in sections for row in s.rows for c in row.configurations}
    assert networks <= {EFFICIENTNET.name}


def test_the_main_table_covers_all_networks_and_levels():
    rows = [row for section in TABLES["main"](PLAN) for row in section.rows]
    levels: dict[str, list[str]] = {}
    for row in rows:
        levels.setdefault(row.configurations[0].network, []).append(row.labels[1])
    pairs = {network.name for network in NETWORKS.values() if network.output == "pairs"}
    assert levels == {
        name: ["8", "16", "32"] if name in pairs else ["4", "8", "16", "32", "64"]
        for name in NETWORKS
    }
    assert {c.calibration for r in rows for c in r.configurations} == {256, 200, 128, 64, 31}


def test_the_ablation_turns_every_switch_alone_and_all_off_together():
    (section,) = TABLES["corrections"](Plan((RESNET,), (0,)))
    changed = {
        row.labels[-1]: {k: v for k, v in row.configurations[0].options.items() if k != "levels"}
        for row in section.rows
    }
    assert changed["defaults"] == {}
    assert changed["`--no-sequential`"] == {"sequential": False}
    assert changed["`--no-bias-correction`"] == {"bias_correction": False}
    assert changed["`--no-compensation`"] == {"compensation": False}
    assert changed["`--shortcuts spikes`"] == {"shortcuts": "spikes"}
    for name, value in all_off().items():
        alone = [options for options in changed.values() if list(options) == [name]]
        assert len(alone) == 1, name
        assert changed["all off"].get(name, value) == value
    off = {"sequential": False, "bias_correction": False, "shortcuts": "spikes"}
    assert changed["all off"].items() >= off.items()


def test_rows_that_say_a_default_share_results_with_those_that_do_not():
    rows = [
        {row.labels: row.configurations for section in TABLES[name](PLAN) for row in section.rows}
        for name in ("main", "corrections", "datafree")
    ]
    assert rows[1][RESNET.title, "8", "defaults"] == rows[0][RESNET.title, "8"]
    assert rows[2][RESNET.title, "32", "real samples"] == rows[0][RESNET.title, "32"]


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="colour"):
        configuration(options={"levels": 8, "colour": 1}).compile_options()


def test_only_samples_that_are_made_up_need_the_seed():
    assert configuration(seed=3).compile_options() == CompileOptions(levels=8)
    made_up = configuration(seed=3, calibration=0).compile_options()
    assert made_up == CompileOptions(levels=8, seed=3)


def test_seeds_take_different_samples_and_none_twice(tmp_path):
    write_images(tmp_path, 12)
    taken = [taken_images(tmp_path, 5, seed) for seed in (0, 1, 0)]
    assert taken[0] == taken[2] != taken[1]
    assert len(set(taken[0])) == 5
    with pytest.raises(ValueError, match="13 samples were asked for, there are 12"):
        taken_images(tmp_path, 13, 0)


def write_images(folder, count):
    (folder / "kws").mkdir()
    images = np.arange(count, dtype=np.int8).reshape(count, 1)
    for split in ("calibration", "test"):
        np.savez(folder / "kws" / f"{split}.npz", features=images, labels=np.arange(count))


def taken_images(folder, count, seed):
    raw, _ = shared_networks._archive(KEYWORDS, folder, "calibration")
    return raw[shared_networks._choice(len(raw), count, seed)].ravel().tolist()


def test_what_is_absent_is_named(tmp_path):
    write_images(tmp_path, 2)
    assert shared_networks.absent(KEYWORDS, tmp_path) == (
        "models/kws_mlperf_dscnn.onnx not in the data folder"
    )


def test_an_absent_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_networks, "_PACKAGE", "no_such_package")
    reason = shared_networks.absent(MINILM, tmp_path)
    assert reason == "the package no-such-package is not installed"


# Sentences


def test_sentences_are_prose_only():
    text = """Compute the mean of all values along an axis. Too short a one. It has a
    line break in the middle of it, but is whole.

    >>> Not this one since it is a session, as the marks tell.

    Parameters are numbered from 1 to 3 in this very sentence. Is a question such a sentence?
    """
    assert split_sentences(text) == [
        "Compute the mean of all values along an axis.",
        "It has a line break in the middle of it, but is whole.",
    ]


def test_word_pieces_are_the_longest_first():
    vocabulary = {"mean", "quan", "quant", "##ize", "##i", "##d", "'", "."}
    assert word_pieces("Quantized'mean.", vocabulary | {"##ized"}) == [
        "quant", "##ized", "'", "mean", ".",
    ]  # fmt: skip
    assert word_pieces("quantized", vocabulary) == ["quant", "##ize", "##d"]
    assert word_pieces("median", vocabulary) is None


def test_words_without_pieces_are_unknown_ones():
    vocabulary = {"the", "caf", "##e", "."}
    assert known_pieces("The Café xyz.", vocabulary) == ["the", "caf", "##e", "[UNK]", "."]


def test_pairs_are_two_sentences_in_a_row_and_a_score(tmp_path, monkeypatch):
    (tmp_path / "sts").mkdir()
    text = '3.5\tone\ttwo\n0\t"two\tone\n'
    (tmp_path / "sts" / "some.tsv").write_text(text, encoding="utf-8")
    monkeypatch.setattr(shared_networks, "_vocabulary", lambda: {"one", "two", '"'})
    texts, scores = shared_networks._pairs(tmp_path, "some")
    assert texts == ["one", "two", '" two', "one"]
    assert scores.tolist() == [3.5, 0]


# Cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_accuracy, "digest", lambda *_: "data")
    return bench_accuracy.Cache(tmp_path / "results" / "cache.json", "one", tmp_path)


def test_results_are_measured_once_and_kept_on_disk(cache):
    seen = []

    def measure(chosen, _):
        seen.append(chosen.seed)
        return {"cosine": [1.0]}

    wanted = [configuration(seed=seed) for seed in (0, 1, 0)]
    assert bench_accuracy.measure_missing(wanted, cache, time.monotonic() + 1e6, measure) == {}
    assert sorted(seen) == [0, 1]
    again = bench_accuracy.Cache(cache.path, "one", cache.data)
    bench_accuracy.measure_missing(wanted, again, time.monotonic() + 1e6, measure)
    assert sorted(seen) == [0, 1]
    assert again.get(wanted[0]) == {"cosine": [1.0]}


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"options": {"levels": 9}}, {"test": 9}, {"calibration": 5}, {"what": "whole"}],
)
def test_another_configuration_has_another_result(cache, changes):
    cache.put(configuration(), {"cosine": [1.0]})
    assert cache.get(configuration(**changes)) is None


def test_other_code_data_or_versions_have_other_results(cache, monkeypatch):
    cache.put(configuration(), {"cosine": [1.0]})
    assert bench_accuracy.Cache(cache.path, "two", cache.data).get(configuration()) is None
    monkeypatch.setattr(bench_accuracy, "versions", lambda: {"numpy": "0"})
    assert cache.get(configuration()) is None
    monkeypatch.undo()
    monkeypatch.setattr(bench_accuracy, "digest", lambda *_: "other data")
    assert cache.get(configuration()) is None


def test_the_anns_outputs_are_shared_by_what_has_the_same_network_and_samples(cache, monkeypatch):
    path = cache.answers(configuration())
    assert path == cache.answers(configuration(seed=1, options={"levels": 4}, calibration=3))
    assert path != cache.answers(configuration(test=9))
    monkeypatch.setattr(bench_accuracy, "digest", lambda *_: "other data")
    assert path != cache.answers(configuration())


def test_each_measurement_has_a_processor_of_its_own(cache):
    here = os.sched_getaffinity(0)
    seen = []

    def measure(*_):
        seen.append(os.sched_getaffinity(0))
        return {"cosine": [1.0]}

    wanted = [configuration(seed=seed) for seed in range(4)]
    bench_accuracy.measure_missing(wanted, cache, time.monotonic() + 1e6, measure)
    assert all(len(one) == 1 and one <= here for one in seen)
    assert os.sched_getaffinity(0) == here


def test_nothing_is_begun_when_time_is_up(cache, capsys):
    def measure(*_):
        raise AssertionError("begun")

    bench_accuracy.measure_missing([configuration()], cache, time.monotonic(), measure)
    assert "time is up, 1 are left" in capsys.readouterr().err


def test_a_failure_is_told_and_tried_again(cache, capsys):
    def fail(*_):
        raise RuntimeError("no sympy")

    wanted = [configuration(), configuration(seed=1)]
    errors = bench_accuracy.measure_missing(wanted, cache, time.monotonic() + 1e6, fail)
    assert errors == {identity(c): "failed: no sympy" for c in wanted}
    assert bench_accuracy.missing(wanted, cache) == wanted
    assert "failed: no sympy" in capsys.readouterr().err


def test_the_page_gets_its_tables_from_the_cache(cache):
    cache.put(configuration(), classes("11", "11", "11"))
    section = Section("classes", ("network",), (Row(("net",), (configuration(),)),))
    page = "<!-- table: main -->\n<!-- end: main -->"
    page = bench_accuracy.write_tables(page, {"main": [section]}, {"main": ["intro"]}, cache, {})
    assert page.startswith("<!-- table: main -->\nintro\n\n| network | ANN top-1, %")
    assert "| net | 100.00 [34.2, 100.0] |" in page
