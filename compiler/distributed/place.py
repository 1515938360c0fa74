"""Samples that any process reads itself: workers open the same path.

Their files have to be those that the process which gives the work has seen, by name and length.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UsageError
from ..samples.base import GivenSamples, InputSpec
from ..samples.files import FileSamples
from ..samples.image_options import ImageOptions
from ..samples.images import ImageSamples
from ..samples.source import Source


@dataclass(frozen=True)
class Place:
    """Where samples are, for any process that sees the same files.

    Attributes:
        path: as the user gives it, from the root on.
        images: how pixels become values, if they are images.
        sha256: of what they hold.
        files: their names and lengths in bytes.
    """

    path: Path
    images: ImageOptions | None
    sha256: str
    files: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, source: Source, samples: GivenSamples) -> Place:
        """That of samples which were opened here.

        Raises:
            UsageError: they are in no file.
        """
        if source.path is None:
            raise UsageError("workers read samples from files; save the data, or leave out workers")
        return cls(source.path.absolute(), source.image_options, samples.sha256, _files(samples))

    def source(self) -> Source:
        """The data, to be opened as often as they are wanted."""
        return Source(self.path, images=self.images)

    def open(self, specs: list[InputSpec]) -> GivenSamples:
        """The samples, as they were seen: nothing is read before it is asked for.

        Raises:
            DataError: the files are not here, or others.
        """
        try:
            source = self.source()
            source.read_late(self.sha256)
            samples = source.open(specs)
            found = _files(samples)
        except DataError as error:
            raise DataError(f"on worker {platform.node()}: {error}") from error
        for own, expected in zip(found, self.files, strict=False):
            if own != expected:
                raise DataError(
                    f"on worker {platform.node()}: {self.path} has {own[0]} of {own[1]} bytes, "
                    f"where this machine has {expected[0]} of {expected[1]}; copy it there again"
                )
        if len(found) != len(self.files):
            raise DataError(
                f"on worker {platform.node()}: {self.path} has {len(found)} files, and "
                f"{len(self.files)} on this machine; copy it there again"
            )
        return samples


def _files(samples: GivenSamples) -> tuple[tuple[str, int], ...]:
    if isinstance(samples, ImageSamples):
        files: Sequence[Path] = samples.images.files
    else:
        assert isinstance(samples, FileSamples)
        files = samples.files
    return tuple((file.name, file.stat().st_size) for file in files)
