"""How long steps tell that they are alive; silent unless a caller brings a display."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Progress:
    """The silent progress, and the interface of others."""

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:  # noqa: ARG002
        """Yield ``items``, telling how many of ``total`` are done."""
        yield from items

    def tell(self, text: str) -> None:
        """Say something before or while it is done, such as how long it will take."""
