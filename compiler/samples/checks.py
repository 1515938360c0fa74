"""Whether arrays fit the inputs of a model, and what to say where they do not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np

from ..errors import DataError
from .base import LABELS, Array, InputSpec

#: What to do about inputs whose first dimension does not count samples.
NO_BATCH_AXIS = (
    "where the first dimension of an input is no batch axis, give the arrays of all inputs one "
    "dimension more, the first for the samples"
)


def unread(place: str, others: Iterable[str], specs: list[InputSpec]) -> list[str]:
    """A warning for each array that nothing reads."""
    known = [LABELS, *(spec.name for spec in specs)]
    warnings = []
    for name in others:
        if name == LABELS:
            continue
        close = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"; is it '{close[0]}'?" if close else ""
        warnings.append(f"{place}: array '{name}' is not read, no input is called so{hint}")
    return warnings


def missing(place: str, name: str, found: list[str]) -> str:
    """That there is no array for an input, and which one may be meant."""
    message = f"{place}: no array named '{name}', which the model's input is called; found {found}"
    close = difflib.get_close_matches(name, found, 1)
    others = [key for key in found if key != LABELS]
    hint = close or (others if len(others) == 1 else [])
    return f"{message}; rename '{hint[0]}'" if hint else f"{message}; give it under that name"


def check_arrays(
    place: str, specs: list[InputSpec], arrays: Mapping[str, Array]
) -> tuple[int, set[str]]:
    """The number of samples in arrays that fit the inputs, and the inputs without batch axis.

    Args:
        place: of the arrays, for messages.
        specs: the inputs.
        arrays: one for each of them, by name; others are not looked at.

    Raises:
        DataError: one does not fit, or they have different numbers of samples.
    """
    rows = {spec.name: _check_array(place, spec, arrays[spec.name]) for spec in specs}
    if len(set(rows.values())) > 1:
        lengths = ", ".join(f"'{name}' {count}" for name, count in rows.items())
        raise DataError(
            f"{place}: the arrays have different numbers of samples, the lengths of their "
            f"first axes: {lengths}; give as many of each, or {NO_BATCH_AXIS}"
        )
    unbatched = {spec.name for spec in specs if len(arrays[spec.name].shape) > len(spec.shape)}
    return next(iter(rows.values())), unbatched


def _check_array(where: str, spec: InputSpec, header: Array) -> int:
    """The number of samples in an array that fits the input."""
    wanted = [dim if dim is not None else "?" for dim in spec.shape]
    place = f"{where}: array '{spec.name}' {header.dtype} {list(header.shape)}"
    rank = len(spec.shape)
    own = spec.shape[1:] if len(header.shape) == rank else spec.shape
    got = header.shape[1:]
    fits = len(header.shape) in (rank, rank + 1) and header.shape != ()
    if not fits or any(dim not in (None, n) for dim, n in zip(own, got, strict=True)):
        given = ", ".join(["samples", *map(str, wanted[1:])])
        raise DataError(
            f"{place} does not fit the input {spec.dtype} {wanted}; its first axis counts samples: "
            f"give it as [{given}]; {NO_BATCH_AXIS}"
        )
    both_float = header.dtype.kind == "f" and spec.dtype.kind == "f"
    if header.dtype != spec.dtype and not both_float:
        raise DataError(
            f"{place} has another element type than the input ({spec.dtype}); prepare the samples "
            "exactly as the network expects them (scaling, normalisation) and give "
            f"array.astype('{spec.dtype}')"
        )
    return header.shape[0]


def as_type(block: np.ndarray, spec: InputSpec, place: str, position: int) -> np.ndarray:
    """The samples in the input's element type, all of them finite.

    Args:
        block: the samples.
        spec: the input.
        place: of the array, for messages.
        position: of the first sample in it.

    Raises:
        DataError: a sample has NaN or inf, or is beyond the type.
    """
    if block.dtype.kind == "f":
        wrong = _first(~np.isfinite(block))
        if wrong is not None:
            raise DataError(
                f"{place} has NaN or inf in sample {position + wrong}; repair the sample, or leave "
                "it out"
            )
    with np.errstate(over="ignore"):
        converted = block.astype(spec.dtype, copy=False)
    if block.dtype.kind == "f" and converted is not block:
        wrong = _first(~np.isfinite(converted))
        if wrong is not None:
            raise DataError(
                f"{place} has {np.abs(block[wrong]).max():.3g} in sample {position + wrong}, "
                f"beyond {spec.dtype}, the element type of the input; scale the samples as the "
                "network expects them"
            )
    return converted


def _first(marked: np.ndarray) -> int | None:
    """The first row that has a mark."""
    rows = np.flatnonzero(marked.reshape(len(marked), -1).any(axis=1))
    return int(rows[0]) if rows.size else None
