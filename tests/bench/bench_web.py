"""Run time of compiled networks in a browser: onnxruntime-web's wasm backend in headless Chromium.

    python tests/bench/bench_web.py [--data DATA] [--networks NAME ...] [--rounds 9]

``digits`` is the bundled network (models/digits_resnet_dynamo.onnx); others are shared networks
with float32 inputs (``shared_networks.py``), which need ``--data``. All are compiled with default
options. The library's kernels do not exist there: the SNN runs from its functions' bodies. Batch 1,
one thread.

Each session has a browser of its own, and those of the ANN and the SNN take turns. Wall time: the
median over a session's groups of runs (a group takes 1 ms or is one run), then over rounds. The
ratio is that of medians, with the least and the largest ratio of a round. "off by" is the largest
difference between the browser's outputs and those of onnxruntime on this machine.

onnxruntime-web is installed into build/web with npm. Exit code 77: something is missing, named in
one line.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnxruntime as ort
import shared_networks
from bench_latency import write_compiled
from snn_compile.compiler import CompileOptions

_REPOSITORY = Path(__file__).parents[2]
_PAGE = Path(__file__).with_suffix(".html")
_BUILD = _REPOSITORY / "build" / "web"
_PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
#: Of Debian, of other systems.
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_TYPES = {".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm"}
#: Seconds before the runs that count, of those, and of a group of them at least; fewest groups.
_TIMES = {"warmUp": 1.0, "seconds": 1.0, "groupSeconds": 1e-3, "fewest": 12}
#: Seconds until a browser that sends nothing is given up.
_PATIENCE = 120
_MISSING = 77
_DIGITS = "digits"


class MissingError(RuntimeError):
    """A program or package that is not on this machine."""


class Handler(BaseHTTPRequestHandler):
    """Serves the page, onnxruntime-web, one network and its request; takes the result."""

    def __init__(
        self, model: Path, request: bytes, results: queue.Queue[bytes], *arguments: object
    ) -> None:
        self._model, self._request, self._results = model, request, results
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path == "/request":
            return self._send(self._request)
        if self.path == "/model":
            return self._send(self._model.read_bytes())
        file = _PAGE if self.path == "/" else dist() / Path(self.path).name
        if not file.is_file():
            return self.send_error(404)
        return self._send(file.read_bytes(), _TYPES.get(file.suffix))

    def do_POST(self) -> None:
        self._results.put(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _send(self, body: bytes, kind: str | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        # Only an isolated page reads the clock in steps of 5 us; others in steps of 100 us.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(body)


def time_runs(
    browser: str, model: Path, feeds: Sequence[dict[str, np.ndarray]]
) -> tuple[float, list[list[np.ndarray]]]:
    """Median seconds of a run with the first feed in a new browser, and each feed's flat outputs.

    Raises:
        RuntimeError: the page reports an error, or nothing.
    """
    request = json.dumps({"feeds": as_json(feeds), **_TIMES}).encode()
    results: queue.Queue[bytes] = queue.Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, model, request, results))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        address = f"http://127.0.0.1:{server.server_port}/"
        command = [browser, *FLAGS, f"--user-data-dir={profile}", address]
        # A browser that is ended leaves temporary files of its own behind.
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": profile},
        )
        try:
            result = json.loads(results.get(timeout=_PATIENCE))
        except queue.Empty:
            raise RuntimeError(f"{model.name}: nothing from the browser") from None
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
            server.server_close()
    if "error" in result:
        raise RuntimeError(f"{model.name}: {result['error']}")
    if not result["isolated"]:
        raise RuntimeError("the page is not isolated, its clock is too coarse")
    outputs = [[np.array(one) for one in sample] for sample in result["outputs"]]
    return float(np.median(result["times"])), outputs


def as_json(feeds: Sequence[dict[str, np.ndarray]]) -> list[dict[str, object]]:
    """Inputs as scripts read them."""
    return [
        {name: {"shape": x.shape, "values": x.ravel().tolist()} for name, x in feed.items()}
        for feed in feeds
    ]


def measure(browser: str, models: dict[str, Path], feed: dict[str, np.ndarray], rounds: int) -> str:
    """A line of ratios to the first model."""
    times: dict[str, list[float]] = {name: [] for name in models}
    off = dict.fromkeys(models, 0.0)
    expected = {name: _outputs(model, feed) for name, model in models.items()}
    for _ in range(rounds):
        for name, model in models.items():
            seconds, (outputs,) = time_runs(browser, model, [feed])
            times[name].append(seconds)
            pairs = zip(outputs, expected[name], strict=True)
            off[name] = max(off[name], *(float(np.abs(a - b.ravel()).max()) for a, b in pairs))
    first, *others = times
    reference = np.array(times[first])
    parts = [f"{first} {np.median(reference) * 1e3:7.3f} ms, off by {off[first]:.0e}"]
    for name in others:
        values = np.array(times[name])
        low, high = (values / reference).min(), (values / reference).max()
        parts.append(
            f"{name} {np.median(values) * 1e3:7.3f} ms, off by {off[name]:.0e}: "
            f"{np.median(values) / np.median(reference):.3f} ({low:.2f} to {high:.2f})"
        )
    return "  ".join(parts)


def _outputs(model: Path, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def dist() -> Path:
    """Where onnxruntime-web's files are, once it is installed."""
    return _BUILD / "node_modules" / _PACKAGE / "dist"


def browser_path() -> str:
    """The browser's path, once onnxruntime-web is installed.

    Raises:
        MissingError: Chromium, npm or the package is missing.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise MissingError("Chromium is not installed (Debian's package chromium)")
    install(_PACKAGE, _BUILD)
    return browser


def install(package: str, folder: Path) -> None:
    """Install version ``VERSION`` of an npm package into a folder, unless it is there.

    Raises:
        MissingError: npm or the package is missing.
    """
    where = f"build/{folder.name}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may install it
        manifest = folder / "node_modules" / package / "package.json"
        if manifest.is_file() and json.loads(manifest.read_text())["version"] == VERSION:
            return
        npm = shutil.which("npm")
        if npm is None:
            raise MissingError(f"npm is not installed, and {package} {VERSION} not in {where}")
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        command += ["--prefix", str(folder), f"{package}@{VERSION}"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise MissingError(f"npm could not install {package} {VERSION} into {where}")


def _stop(reason: str) -> NoReturn:
    print(f"left out: {reason}", file=sys.stderr)
    raise SystemExit(_MISSING)


def load(name: str, data: Path | None) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The network and its calibration samples."""
    if name == _DIGITS:
        folder = _REPOSITORY / "models"
        with np.load(folder / "digits_calibration.npz") as archive:
            return onnx.load(folder / "digits_resnet_dynamo.onnx"), dict(archive)
    if data is None:
        raise AssertionError("absent() was not asked")
    network = shared_networks.NETWORKS[name]
    samples = shared_networks.calibration_samples(network, data, network.calibration, 0)
    return shared_networks.load_model(network, data), samples


def absent(name: str, data: Path | None) -> str | None:
    """Why the network cannot be loaded, or None."""
    if name == _DIGITS:
        return None
    return shared_networks.absent(shared_networks.NETWORKS[name], data) if data else "no --data"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="+", default=[_DIGITS, "kws_mlperf_dscnn"])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    try:
        browser = browser_path()
    except MissingError as error:
        _stop(str(error))
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            gone = absent(name, arguments.data)
            if gone:
                print(f"{name}: left out, {gone}")
                continue
            model, samples = load(name, arguments.data)
            paths = write_compiled(name, model, samples, CompileOptions(), Path(folder))
            models = {"ANN": paths["ann.onnx"], "SNN": paths["snn.onnx"]}
            with np.load(paths["npz"]) as feed:
                line = measure(browser, models, dict(feed), arguments.rounds)
            print(f"{name:28s} {line}", flush=True)


if __name__ == "__main__":
    main()
