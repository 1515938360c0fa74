"""Spools: what was put comes back, from memory and from a file that grows as little as may be."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from snn_compile.compiler.running.spool import Spool


@pytest.fixture(params=[0, 100, 1 << 20], ids=["on disk", "both", "in memory"])
def spool(request):
    spool = Spool(request.param)
    yield spool
    spool.close()


def size_of_file(spool):
    return os.fstat(spool._file.fileno()).st_size if spool._file else 0


def test_it_gives_back_what_it_was_given_and_forgets(spool):
    spool.put("a/b", 0, np.arange(3))
    spool.put("a/b", 1, np.zeros((0, 2), np.float32))
    spool.put("a/b", 0, np.arange(4))
    np.testing.assert_array_equal(spool.get("a/b", 0), np.arange(4))
    assert spool.get("a/b", 1).shape == (0, 2)
    assert len(spool) == 2
    with pytest.raises(KeyError):
        spool.get("a/b", 2)
    spool.drop("a/b", 0)
    with pytest.raises(KeyError):
        spool.get("a/b", 0)
    spool.drop("a/b")
    with pytest.raises(KeyError):
        spool.get("a/b", 1)
    spool.drop("never kept")
    spool.drop("never kept", 3)
    assert len(spool) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.bool_, np.float16, np.int64])
def test_of_every_type_and_layout(spool, dtype):
    arrays = [
        np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype),
        np.asarray(np.arange(24).reshape(4, 6), dtype).T,
        np.asarray(1, dtype),
        np.asarray(np.arange(60), dtype)[::2],
    ]
    for number, array in enumerate(arrays):
        spool.put("x", number, array)
    for number, array in enumerate(arrays):
        got = spool.get("x", number)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, array)


def test_memory_is_used_first_and_again_when_it_is_free():
    spool = Spool(memory=200)
    first, second, third = (np.full(100, value, np.int8) for value in (1, 2, 3))
    spool.put("a", 0, first)
    spool.put("b", 0, second)
    assert spool.get("a", 0) is first
    assert size_of_file(spool) == 0
    spool.put("c", 0, third)
    assert size_of_file(spool) == 100
    np.testing.assert_array_equal(spool.get("c", 0), third)
    spool.drop("a")
    spool.put("d", 0, third)
    assert spool.get("d", 0) is third
    spool.close()


def test_what_is_free_in_the_file_is_used_again():
    spool = Spool(memory=0)
    for number in range(20):
        spool.put(f"t{number}", 0, np.full(1000 - number, number, np.uint8))
        spool.put(f"t{number}", 1, np.full(1000 - number, number, np.uint8))
        spool.drop(f"t{number - 1}")
    assert size_of_file(spool) <= 4 * 1000
    for batch in range(2):
        np.testing.assert_array_equal(spool.get("t19", batch), np.full(981, 19, np.uint8))
    spool.close()


def test_threads_do_not_disturb_each_other(spool):
    def work(name):
        for number in range(200):
            array = np.full(50 + number % 7, hash((name, number)) % 100, np.int64)
            spool.put(name, number, array)
            if not np.array_equal(spool.get(name, number), array):
                wrong.append((name, number))
            if number % 3 == 0:
                spool.drop(name, number)

    wrong = []
    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_is_left_where_the_process_is_killed(tmp_path):
    code = (
        "import os, signal, numpy as np\n"
        "from snn_compile.compiler.running.spool import Spool\n"
        "spool = Spool(0)\n"
        "spool.put('x', 0, np.zeros(100_000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() != str(tmp_path)
