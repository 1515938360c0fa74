"""ONNX Runtime sessions, made and run in one place."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto

from ...passes.graph.network import Network, detach
from ...runtime_ops import has_library, register
from ..errors import DataError, ModelError
from ..samples.base import Feed
from ..samples.checks import NO_BATCH_AXIS
from .bodies import ObservingSession, on_bodies
from .threads import of_sessions

#: Bytes of activations per batch that may leave the runtime at once.
ACTIVATION_BUDGET = 64 << 20

#: The runtime's own log: what goes wrong arrives as an exception, the rest is not the user's.
_SILENT = 4

#: How the runtime says that memory has run out; it has no type for it.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "bad allocation")


def make_session(
    network: Network | ModelProto,
    *,
    library: bool = True,
    optimise: bool = True,
    one_of_many: bool = False,
) -> ort.InferenceSession:
    """A CPU session. The runtime is only ever handed bytes, so it never follows a path that the
    model names; it makes the one copy of the large weights.

    Args:
        network: any valid model.
        library: run the C++ kernels, where they are installed; otherwise the function bodies.
        optimise: ORT_ENABLE_ALL; otherwise ORT_DISABLE_ALL, which keeps the order of arithmetic.
        one_of_many: of sessions that are made one after the other and run a few times each: they
            share the memory of their tensors. Else each has its own, and the system has to clear
            it for every one of them again, which can take longer than what they compute.

    Raises:
        ModelError: the runtime cannot execute the model.
        MemoryError: it does not fit.
    """
    if isinstance(network, ModelProto):
        network = detach(network)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    level = ort.GraphOptimizationLevel
    options.intra_op_num_threads = of_sessions()
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    # Without optimisation thousands of small nodes remain, and planning which of their outputs may
    # share memory takes time quadratic in that number (28 s for 65 neurons).
    options.enable_mem_reuse = optimise
    # A pattern is laid out in a block of its own after the first run, whose memory stays: two
    # batches would take more than one.
    options.enable_mem_pattern = False
    # Threads that wait by spinning take the processor from other sessions of this process, and from
    # other processes: with both networks alive DS-CNN was evaluated in half the time without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if one_of_many:
        _share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
    outputs = [value.name for value in network.proto.graph.output]
    observers: list[NodeProto] = []
    if library and has_library():
        register(options)
    elif library:
        network, observers = on_bodies(network)
    try:
        if network.weights:
            # Of an array that is not contiguous the runtime would hold a copy that it cannot share.
            arrays = [np.ascontiguousarray(array) for array in network.weights.values()]
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
            options.add_external_initializers(list(network.weights), values)
        session = ort.InferenceSession(
            network.proto.SerializeToString(), options, ["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime raises types of its own, outside any hierarchy
        _raise_if_out_of_memory(error)
        raise ModelError(f"onnxruntime {ort.__version__} cannot run the model: {error}") from error
    return ObservingSession(session, outputs, observers) if observers else session


@cache
def _share_memory() -> None:
    """Make the memory that sessions share, once in a process."""
    kind, purpose = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    memory = ort.OrtMemoryInfo("Cpu", kind, 0, purpose)
    with contextlib.suppress(Exception):  # whoever uses this process made it before
        ort.create_and_register_allocator(memory, None)


def batch_size(per_sample: int) -> int:
    """Samples per batch whose activations, of so many bytes each, are within the budget."""
    return int(np.clip(ACTIVATION_BUDGET // max(per_sample, 1), 1, 32))


def run_samples(session: ort.InferenceSession, feed: Feed, what: str) -> list[np.ndarray]:
    """Run a session on one feed, so that Ctrl-C stops it at the next node.

    Raises:
        DataError: the runtime refuses the feed; its message is passed on.
        MemoryError: a tensor does not fit.
    """
    run = _Run(session, feed)
    try:
        run.start()
        return run.result(what)
    except BaseException:
        run.stop()
        raise


def run_each(
    session: ort.InferenceSession, feeds: Iterable[Feed], what: str
) -> Iterator[list[np.ndarray]]:
    """Run a session on one feed after the other; each runs while what the last gave is looked at.

    Raises:
        As :func:`run_samples`.
    """
    run: _Run | None = None
    try:
        for feed in feeds:
            before, outputs = run, run.result(what) if run else []
            run = _Run(session, feed)
            run.start()
            if before:
                yield outputs
        if run:
            yield run.result(what)
    except BaseException:
        if run:
            run.stop()
        raise


class _Run(threading.Thread):
    """One run in a thread of its own, so that a signal reaches Python meanwhile.

    ``done`` is waited for, not the thread: Python forgets a thread whose ``join`` is interrupted.
    """

    def __init__(self, session: ort.InferenceSession, feed: Feed) -> None:
        super().__init__()
        self.options = ort.RunOptions()
        self.options.log_severity_level = _SILENT
        self.done = threading.Event()
        self.outputs: list[np.ndarray] = []
        self.error: Exception | None = None
        self._session, self._feed = session, feed

    def run(self) -> None:
        try:
            self.outputs = list(self._session.run(None, self._feed, self.options))
        except Exception as error:  # the runtime raises types of its own, outside any hierarchy
            self.error = error
        finally:
            self.done.set()

    def result(self, what: str) -> list[np.ndarray]:
        """Wait for the outputs; see :func:`run_samples`."""
        self.done.wait()
        if self.error is None:
            return self.outputs
        _raise_if_out_of_memory(self.error)
        shapes = {name: list(array.shape) for name, array in self._feed.items()}
        raise DataError(
            f"{what} does not run on inputs of shape {shapes}: {self.error}; check lengths and "
            f"values, indices above all; {NO_BATCH_AXIS}"
        ) from self.error

    def stop(self) -> None:
        """End it at the next node, and wait for that."""
        self.options.terminate = True  # the runtime itself does not see the signal
        if self.is_alive():
            self.done.wait()


def _raise_if_out_of_memory(error: Exception) -> None:
    if any(words in str(error) for words in _OUT_OF_MEMORY):
        raise MemoryError(str(error)) from error
