"""A page in headless Chromium, told what to do over the browser's own pipe (DevTools protocol)."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Seconds until an answer or a condition is given up.
PATIENCE = 120


class Page:
    """A page that is open.

    Attributes:
        errors: what the console said is an error, exceptions that nothing caught among it.
    """

    def __init__(self, to: int, answers: int) -> None:
        self.errors: list[str] = []
        self._to, self._next = to, 0
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._session: str | None = None
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol: its result.

        Raises:
            RuntimeError: the browser refuses it, or does not answer.
        """
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            try:
                answer = self._answers.get(timeout=PATIENCE)
            except queue.Empty:
                raise RuntimeError(f"{method}: no answer from the browser") from None
            if answer["id"] == self._next:
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def go(self, address: str) -> None:
        """Open an address; what it loads by scripts may still be on its way."""
        self.send("Page.navigate", url=address)
        self.wait("document.readyState == 'complete'")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives, or its promise."""
        given = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in given:
            raise RuntimeError(f"{expression}: {given['exceptionDetails']}")
        return given["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression of JavaScript is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(condition):
            if time.monotonic() > end:
                shown = self.value("document.body.innerText")
                raise RuntimeError(f"{condition}: still false; the page shows {shown}")
            time.sleep(0.05)

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point (CSS pixels), move through the others, let go."""
        steps = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(steps, [*points, points[-1]], strict=True):
            held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)

    def _read(self, answers: int) -> None:
        pending = b""
        while block := os.read(answers, 1 << 16):
            *messages, pending = (pending + block).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._note(message["method"], message["params"])
        os.close(answers)

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.errors.append(str([argument.get("value") for argument in event["args"]]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")


@contextmanager
def page_in(browser: str, *flags: str) -> Iterator[Page]:
    """A new browser with one empty page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The browser reads from its descriptor 3 and writes to 4; ours must be none of these.
        own = [descriptor for _ in range(2) for descriptor in os.pipe()]
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in own]
        for descriptor in own:
            os.close(descriptor)
        commands, to, answers, back = high
        as_3_and_4 = f'exec "$@" 3<&{commands}- 4>&{back}-'
        own_flags = [f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            ["bash", "-c", as_3_and_4, "bash", browser, *flags, *own_flags],
            pass_fds=(commands, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": profile},
        )
        os.close(commands)
        os.close(back)
        try:
            yield Page(to, answers)
        finally:
            os.close(to)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder as ``python -m http.server`` does: its address, with a slash at the end."""
    handler = partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
