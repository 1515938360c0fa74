"""Free memory: what the kernel tells, within a container's limit."""

from __future__ import annotations

import pytest
from snn_compile.compiler.running import memory
from snn_compile.compiler.running.memory import free_memory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Files of a machine with 8 GiB available."""
    groups = tmp_path / "cgroup"
    (groups / "memory").mkdir(parents=True)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9999999 kB\nMemAvailable:    8388608 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    return groups


def test_it_is_what_is_available(machine):
    assert free_memory() == 8 << 30
    (machine / "memory.max").write_text("max\n")
    (machine / "memory.current").write_text("123\n")
    assert free_memory() == 8 << 30


def test_a_container_has_what_its_limit_leaves(machine):
    (machine / "memory.max").write_text(f"{2 << 30}\n")
    (machine / "memory.current").write_text(f"{1 << 30}\n")
    assert free_memory() == 1 << 30
    (machine / "memory" / "memory.limit_in_bytes").write_text("1000\n")
    (machine / "memory" / "memory.usage_in_bytes").write_text("400\n")
    assert free_memory() == 600
    (machine / "memory.current").write_text(f"{3 << 30}\n")
    assert free_memory() == 0


def test_where_nothing_tells_it_it_is_a_gibibyte(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert free_memory() == 1 << 30
    (tmp_path / "none").write_text("nothing that is known\n")
    assert free_memory() == 1 << 30


def test_on_this_machine_there_is_some():
    assert free_memory() > 0
