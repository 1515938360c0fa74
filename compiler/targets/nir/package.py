"""The ``nir`` package: which releases can hold our neurons, and how a graph becomes a file."""

from __future__ import annotations

import importlib
import io
from importlib import metadata as distribution
from pathlib import Path
from typing import Any

from ...errors import ModelError, UsageError


def load_nir(timesteps: int) -> Any:
    """The ``nir`` module.

    The neurons of a T-step network are reset by subtraction, v = v - theta. So is IF in nir up to
    1.0.5; from 1.0.6 on it is set to v_reset, and nothing else there is reset by subtraction. Over
    one step it does not matter what a neuron is reset to.

    Raises:
        UsageError: it is not installed, or its IF is another neuron than ours.
    """
    nir = _module()
    if timesteps > 1 and "v_reset" in nir.IF.__dataclass_fields__:
        raise UsageError(
            f"in nir {distribution.version('nir')} IF neurons are reset to v_reset, those of a "
            "compiled network by subtraction, so they would become others; pip install "
            "'nir<1.0.6', or leave out --timesteps"
        )
    return nir


def _module() -> Any:
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise UsageError("NIR graphs need nir: pip install 'snn-compile[nir]'") from error


def read_nir(path: Path) -> Any:
    """The NIR graph in a file.

    Raises:
        UsageError: ``nir`` is not installed.
        ModelError: the file is no NIR graph.
    """
    nir = _module()
    try:
        return nir.read(path)
    except Exception as error:  # what nir and h5py raise is not documented
        raise ModelError(f"{path}: is no NIR graph that nir reads ({error})") from error


def nir_bytes(graph: Any) -> bytes:
    """A NIR graph as the contents of a file, HDF5. The same graph gives the same bytes."""
    stream = io.BytesIO()
    _module().write(stream, graph)
    return stream.getvalue()
