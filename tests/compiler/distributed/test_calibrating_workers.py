"""Calibration on workers: the same bytes whatever their number, workers that are lost, refusals."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import model_from_text
from onnx import numpy_helper
from snn_compile.compiler import cli, compile_model
from snn_compile.compiler.distributed import calibration, cluster
from snn_compile.compiler.distributed.cluster import Put, WorkerLostError
from snn_compile.compiler.errors import ClusterError, DataError, UsageError
from snn_compile.compiler.progress import Progress

MODELS = Path(__file__).resolve().parents[3] / "models"
SAMPLES = MODELS / "digits_calibration.npz"
RESNET = MODELS / "digits_resnet_torchscript.onnx"
TRANSFORMER = MODELS / "digits_vit_dynamo.onnx"

#: How far thresholds, scales, weights and biases may be from those of one process, in units of the
#: largest of the tensor: sums of float64 in another order, rounded to float32 in the end.
SUMMED = 1.2e-7


class HereCluster:
    """The interface of a cluster whose workers are in this process; all that travels is pickled.

    ``lost`` are numbers of tasks at which the worker is gone, with all that it holds, once they are
    asked for; another one comes in its place. At those of ``forgetting`` it holds nothing any more.
    """

    where = "the test's cluster"

    def __init__(self, workers, lost=(), forgetting=()):
        self.client, self.tasks = self, 0
        self._there = [f"tcp://127.0.0.1:{i}" for i in range(workers)]
        self._lost, self._forgetting, self._built = lost, forgetting, {}

    def workers(self):
        return list(self._there)

    wait_for_workers = workers

    def cancel(self, futures):
        pass

    def close(self):
        for place in self._built.values():
            place.close()

    def put(self, value):
        return Put("key", pickle.dumps(value))

    def submit(self, build, work, put, item, worker):
        self.tasks += 1
        if self.tasks in self._forgetting:
            self._built.pop(worker).close()
        if self.tasks in self._lost:
            self._there.remove(worker)
            if worker in self._built:
                self._built.pop(worker).close()
            self._there.append(f"tcp://127.0.0.1:{100 + self.tasks}")
        if worker not in self._there:
            return None
        if worker not in self._built:
            self._built[worker] = build(pickle.loads(put.future))
        return pickle.dumps(work(self._built[worker], pickle.loads(pickle.dumps(item))))

    def result(self, future, worker):
        if future is None or worker not in self._there:
            raise WorkerLostError(worker)
        return pickle.loads(future)


def compiled_here(monkeypatch, model, cluster, data=SAMPLES, **options):
    """What workers of a cluster in this process make of a model."""

    @contextmanager
    def connected(scheduler, workers):  # noqa: ARG001
        yield cluster

    monkeypatch.setattr(calibration, "connected", connected)
    try:
        return compile_model(model, data, workers=1, threads=1, **options)
    finally:
        cluster.close()  # what an error left: the collector may find files before their owners


def content(result):
    return result.model.SerializeToString(deterministic=True)


def values(result):
    """Thresholds, scales, weights and biases by name."""
    arrays = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


@pytest.mark.parametrize(
    "options", [{"timesteps": 3}, {"compensation": False, "sequential": False}], ids=str
)
def test_the_result_does_not_depend_on_the_number_of_workers(monkeypatch, options):
    found = {
        content(compiled_here(monkeypatch, RESNET, HereCluster(count), **options))
        for count in (1, 2, 3)
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("model", "samples", "options"),
    [
        (RESNET, 256, {}),
        (TRANSFORMER, 256, {"levels": 4}),
        (TRANSFORMER, 100, {}),  # the last batch is smaller
        (TRANSFORMER, 97, {}),  # it is one sample
        (RESNET, 40, {"target": "int8"}),
    ],
    ids=lambda value: getattr(value, "stem", str(value)),
)
def test_it_is_that_of_one_process_but_for_the_order_of_sums(
    monkeypatch, tmp_path, model, samples, options
):
    data = tmp_path / "data.npz"
    with np.load(SAMPLES) as archive:
        np.savez(data, image=archive["image"][:samples])
    expected = values(compile_model(model, data, threads=1, **options))
    found = {}
    for count in (1, 3, 8):
        result = compiled_here(monkeypatch, model, HereCluster(count), data, **options)
        found[content(result)] = values(result)
    assert len(found) == 1
    require_close(*found.values(), expected)


def require_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        largest = np.abs(array).max(initial=0)
        np.testing.assert_allclose(found[name], array, rtol=0, atol=SUMMED * largest)


ONE_BY_ONE = """
m (float[1,3,6,6] x) => (float[1,4] y) <float[4,3,3,3] w, float[4,4] v, int64[2] shape = {1, 4}> {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    r = Relu (c)
    p = GlobalAveragePool (r)
    f = Reshape (p, shape)
    y = MatMul (f, v)
}
"""


def test_batches_of_one_sample_are_in_the_halves_that_they_are_in_in_one_process(
    monkeypatch, tmp_path
):
    data = tmp_path / "data.npz"
    samples = np.random.default_rng(1).standard_normal((13, 3, 6, 6)).astype(np.float32)
    np.savez(data, x=samples)
    model = model_from_text(ONE_BY_ONE)
    expected = values(compile_model(model, data, threads=1))
    for count in (1, 2, 5):
        require_close(values(compiled_here(monkeypatch, model, HereCluster(count), data)), expected)


@pytest.mark.parametrize(
    "trouble",
    [
        {"lost": {1}},
        {"lost": {3}},
        {"lost": {9}},
        {"lost": {8, 9}},
        {"lost": {11, 12}},
        {"forgetting": {7}},
        {"lost": {6}, "forgetting": {13, 14}},
    ],
    ids=str,
)
def test_a_part_that_is_lost_is_computed_again(monkeypatch, trouble):
    whole, troubled = HereCluster(2), HereCluster(2, **trouble)
    expected = content(compiled_here(monkeypatch, RESNET, whole))
    assert content(compiled_here(monkeypatch, RESNET, troubled)) == expected
    assert troubled.tasks > whole.tasks


def test_a_part_that_is_lost_again_and_again_ends_the_calibration(monkeypatch):
    cluster = HereCluster(2, lost=range(5, 1000))
    with pytest.raises(ClusterError, match="worker after worker was lost in the same round"):
        compiled_here(monkeypatch, RESNET, cluster)


INFINITE = """
m (float[N,4] x) => (float[N,3] y) <float[4,4] w, float[4,3] v> {
    e = Exp (x)
    r = Relu (e)
    h = MatMul (r, w)
    s = Relu (h)
    y = MatMul (s, v)
}
"""


def test_what_is_infinite_on_one_worker_alone_is_refused_as_here(monkeypatch, tmp_path):
    data = tmp_path / "data.npz"
    samples = np.zeros((96, 4), np.float32)
    samples[-1] = 200
    np.savez(data, x=samples)
    model = model_from_text(INFINITE)
    messages = set()
    for compiled in (
        lambda: compile_model(model, data),
        lambda: compiled_here(monkeypatch, model, HereCluster(3), data),
    ):
        with pytest.raises(DataError, match=r"the samples make the input of .* infinite") as error:
            compiled()
        messages.add(str(error.value))
    assert len(messages) == 1


REFUSED = [
    ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "exclude each other"),
    (
        {"workers": 2, "sequential": False, "bias_correction": False, "compensation": False},
        "--workers has no effect where nothing is corrected",
    ),
    ({"workers": 0}, "--workers 0 cannot be used; give a whole number from 1 to"),
    ({"scheduler": ""}, "--scheduler '' cannot be used; give a text"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        compile_model(RESNET, SAMPLES, **options)


def test_data_that_workers_cannot_read_are_refused():
    with pytest.raises(UsageError, match="has an effect only with --calibration"):
        compile_model(RESNET, workers=2)
    with np.load(SAMPLES) as archive, pytest.raises(UsageError, match="in a file or folder"):
        compile_model(RESNET, dict(archive), workers=2)


class Killer(Progress):
    """Kills a process after some rounds of calibration."""

    def __init__(self, process, rounds):
        self._process, self._rounds = process, rounds

    def track(self, items, total, label):  # noqa: ARG002
        for number, item in enumerate(items):
            if label == "calibrating" and number == self._rounds:
                os.kill(self._process, signal.SIGKILL)
            yield item


@pytest.fixture(scope="module")
def dask():
    """A cluster of two processes."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


class TestProcesses:
    def test_the_result_is_that_of_workers_in_this_one(self, monkeypatch, dask):
        expected = content(compiled_here(monkeypatch, RESNET, HereCluster(1)))
        monkeypatch.undo()
        found = compile_model(RESNET, SAMPLES, scheduler=dask.scheduler_address, threads=1)
        assert content(found) == expected

    @pytest.mark.parametrize("rounds", [0, 3])
    def test_one_is_killed_in_the_middle(self, monkeypatch, dask, rounds):
        expected = content(compiled_here(monkeypatch, RESNET, HereCluster(1)))
        monkeypatch.undo()
        killer = Killer(_process(dask), rounds)
        address = dask.scheduler_address
        found = compile_model(RESNET, SAMPLES, None, killer, scheduler=address, threads=1)
        assert content(found) == expected

    def test_other_files_at_the_same_place_are_refused(self, monkeypatch, dask, tmp_path):
        data = tmp_path / "data.npz"
        data.write_bytes(SAMPLES.read_bytes())

        opener = calibration.Workers.opener

        def replaced(self, prepared, options):
            found = opener(self, prepared, options)
            np.savez(data, image=np.zeros((32, 1, 8, 8), np.float32))
            return found

        monkeypatch.setattr(calibration.Workers, "opener", replaced)
        with pytest.raises(DataError, match=r"on worker .*data\.npz has .* bytes, where this mach"):
            compile_model(RESNET, data, scheduler=dask.scheduler_address, levels_budget=0.0)

    def test_nothing_is_left_on_them(self, dask):
        def shards():  # inside, so that it is sent whole
            from snn_compile.compiler.calibration.sequence.shard import Shard

            return sum(isinstance(one, Shard) for one in gc.get_objects())

        client = dask.get_client()
        compile_model(RESNET, SAMPLES, scheduler=dask.scheduler_address)
        for _ in range(200):  # they are told to forget, and not waited for
            if not any(client.run(shards).values()):
                break
        else:
            raise AssertionError("shards are left on workers")


def _process(dask):
    return next(iter(dask.get_client().run(os.getpid).values()))


def test_the_command(tmp_path):
    pytest.importorskip("distributed")
    output = tmp_path / "snn.onnx"
    typed = [str(RESNET), "-o", str(output), "--calibration", str(SAMPLES), "--threads", "1"]
    result = CliRunner().invoke(cli.main, [*typed, "--workers", "2"])
    assert result.exit_code == 0, result.output
    first = output.read_bytes()
    result = CliRunner().invoke(cli.main, [*typed, "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert output.read_bytes() == first


def test_no_scheduler_answers(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "TIMEOUT", 0.2)
    typed = [str(RESNET), "-o", str(tmp_path / "snn.onnx"), "--calibration", str(SAMPLES)]
    result = CliRunner().invoke(cli.main, [*typed, "--scheduler", "tcp://127.0.0.1:9"])
    assert result.exit_code == UsageError.exit_code
    assert "no scheduler of Dask answers" in result.output
    assert list(tmp_path.iterdir()) == []
