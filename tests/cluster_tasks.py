"""Tasks that tests give to a cluster, whose workers import them from here."""

from __future__ import annotations

import os
import signal
import time

from snn_compile.compiler.errors import DataError


def build(value):
    return {"value": value, "pid": os.getpid(), "built": time.monotonic()}


def work(context, item):
    if item == "refuse":
        raise DataError("sample 3 is NaN")
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "die once" and not os.path.exists(context["value"]):  # noqa: PTH110
        open(context["value"], "w").close()  # noqa: PTH123
        os.kill(os.getpid(), signal.SIGKILL)
    return item, context["pid"], context["built"]
