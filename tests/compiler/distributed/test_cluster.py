"""The cluster: what is given to it, what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time

import pytest
from cluster_tasks import build, work
from snn_compile.compiler.distributed import cluster as clusters
from snn_compile.compiler.distributed.cluster import connected
from snn_compile.compiler.distributed.versions import difference, versions
from snn_compile.compiler.errors import ClusterError, DataError, UsageError
from snn_compile.compiler.progress import Progress

pytest.importorskip("distributed")
# What Dask's own code leaves open or calls when a worker is killed is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def two():
    with connected(None, 2) as cluster:
        yield cluster


def mapped(cluster, items, value="v"):
    put = cluster.put(value)
    return list(cluster.map(build, work, put, items, len(items), "trying", Progress()))


def test_results_come_in_order_and_each_worker_builds_once(two):
    found = mapped(two, list(range(40)))
    assert [item for item, *_ in found] == list(range(40))
    # A worker may be quick enough to do them all.
    assert len({built for *_, built in found}) == len({pid for _, pid, _ in found}) <= 2


def test_a_refusal_is_raised_as_it_is(two):
    with pytest.raises(DataError, match="sample 3 is NaN"):
        mapped(two, [1, "refuse", 2])
    assert [item for item, *_ in mapped(two, [1, 2])] == [1, 2]


def test_a_task_of_a_worker_that_dies_is_done_by_another(two, tmp_path):
    found = mapped(two, [*range(6), "die once", *range(6)], str(tmp_path / "died"))
    assert [item for item, *_ in found] == [*range(6), "die once", *range(6)]


def test_a_task_that_kills_worker_after_worker_ends_the_work(two):
    with pytest.raises(ClusterError, match="worker after worker died"):
        mapped(two, ["die"])


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:{port}", "127.0.0.1:{port}", "nowhere", "x://y"]
)
def test_an_address_where_no_scheduler_answers_is_refused(monkeypatch, address):
    monkeypatch.setattr(clusters, "TIMEOUT", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = address.format(port=port)
    with (
        pytest.raises(UsageError, match=f"--scheduler {address}: no scheduler of Dask answers"),
        connected(address, None),
    ):
        pass


@pytest.mark.parametrize("given", [("tcp://a:1", 2), (None, None)])
def test_one_of_the_two_is_given(given):
    with pytest.raises(UsageError, match="exclude each other"), connected(*given):
        pass


def test_without_dask_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="install the extra 'distributed'"), connected(None, 1):
        pass


def test_a_scheduler_that_goes_while_versions_are_asked_for_is_a_refusal(monkeypatch):
    from distributed import Client
    from distributed.comm import CommClosedError

    def gone(*_, **__):
        raise CommClosedError("Stream is closed")

    monkeypatch.setattr(Client, "get_versions", gone)
    with (
        pytest.raises(ClusterError, match=r"the scheduler is gone .*Stream is closed"),
        connected(None, 1),
    ):
        pytest.fail("it was not noticed")


def test_the_first_difference_of_versions_is_named():
    own = dict(versions())
    assert difference(own) == ""
    assert difference({}) == ""
    other = difference(own | {"numpy": "1.0", "dask": "2"})
    assert other == f"has numpy 1.0, and this machine has {own['numpy']}"


def test_workers_of_other_versions_are_refused(monkeypatch):
    """Here the code on this machine changes while the workers' stays: the same to them."""
    with connected(None, 1) as cluster:
        address = cluster.client.scheduler.address
        monkeypatch.setattr(clusters, "versions", lambda: {**versions(), "onnx": "0"})
        monkeypatch.setattr(
            clusters, "difference", lambda one: "has another onnx" if "onnx" in one else ""
        )
        with (
            pytest.raises(UsageError, match=r"worker tcp.* has another onnx"),
            connected(address, None),
        ):
            pass
        with pytest.raises(UsageError, match=r"a worker has onnx .*, and this machine has 0"):
            mapped(cluster, [1])


def test_no_loop_of_dask_is_waited_for(monkeypatch):
    """Dask gives its thread 10 s to start and fails then; ours may take longer."""
    utils, run = pytest.importorskip("distributed.utils"), asyncio.run
    start = utils.LoopRunner._start_unlocked

    def only_given(runner):
        assert runner._loop is not None
        start(runner)

    def late(*arguments):
        time.sleep(0.5)
        run(*arguments)

    monkeypatch.setattr(utils.LoopRunner, "_start_unlocked", only_given)
    monkeypatch.setattr(asyncio, "run", late)
    with connected(None, 1) as cluster:
        assert [item for item, *_ in mapped(cluster, [1])] == [1]


def test_a_loop_that_cannot_start_is_an_error(monkeypatch):
    def fail(main):
        main.close()
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "run", fail)
    with pytest.raises(OSError, match="Too many open files"), connected(None, 1):
        pass


def test_help_and_normal_runs_do_not_import_dask():
    code = (
        "import sys; import snn_compile.compiler.eval_cli, snn_compile.compiler.cli, "
        "snn_compile.compiler.evaluation.evaluate; "
        "sys.exit(any(name in sys.modules for name in ('dask', 'distributed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
