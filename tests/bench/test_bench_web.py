"""What bench_web.py does without a browser, and what its server answers."""

from __future__ import annotations

import json
import queue
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import bench_web
import pytest


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ([], "Chromium is not installed"),
        (["npm"], "Chromium is not installed"),
        (["chromium"], "npm is not installed, and onnxruntime-web"),
        (["chromium", "npm"], "npm could not install onnxruntime-web"),
    ],
)
def test_what_is_missing_is_said_in_one_line(programs, reason, monkeypatch, tmp_path, capsys):
    failing = tmp_path / "program"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(bench_web, "_BUILD", tmp_path / "web")
    monkeypatch.setattr(
        bench_web.shutil, "which", lambda name: str(failing) if name in programs else None
    )
    monkeypatch.setattr("sys.argv", ["bench_web.py"])
    with pytest.raises(SystemExit) as stop:
        bench_web.main()
    assert stop.value.code == 77
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_an_installed_version_is_not_installed_again(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_web, "_BUILD", tmp_path)
    monkeypatch.setattr(
        bench_web.shutil, "which", lambda name: "browser" if name == "chromium" else None
    )
    package = tmp_path / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": bench_web.VERSION}))
    assert bench_web.browser_path() == "browser"


def test_a_shared_network_needs_the_data():
    assert bench_web.absent("digits", None) is None
    assert bench_web.absent("kws_mlperf_dscnn", None) == "no --data"


@pytest.fixture
def served(monkeypatch, tmp_path):
    """An address, and the results that come in."""
    monkeypatch.setattr(bench_web, "_BUILD", tmp_path)
    dist = bench_web.dist()
    dist.mkdir(parents=True)
    (dist / "ort.mjs").write_text("export {}")
    (dist.parent / "package.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"model")
    results: queue.Queue[bytes] = queue.Queue()
    handler = partial(bench_web.Handler, tmp_path / "model.onnx", b'{"feeds": []}', results)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", results
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_server_answers_with_what_the_page_needs(served):
    address, results = served
    expected = {
        "/": ("text/html", Path(bench_web.__file__).with_suffix(".html").read_bytes()),
        "/ort/ort.mjs": ("text/javascript", b"export {}"),
        "/model": ("application/octet-stream", b"model"),
        "/request": ("application/octet-stream", b'{"feeds": []}'),
    }
    for path, (kind, body) in expected.items():
        with urllib.request.urlopen(address + path) as answer:
            assert (answer.headers["Content-Type"], answer.read()) == (kind, body)
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    with urllib.request.urlopen(f"{address}/result", data=b"[1]") as answer:
        assert answer.status == 200
    assert results.get_nowait() == b"[1]"


@pytest.mark.parametrize("path", ["/none.mjs", "/ort/../package.json", "/ort/", "/.."])
def test_the_server_serves_no_other_file(served, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(served[0] + path)
    assert error.value.code == 404
    error.value.close()
