"""The terminal: what the two commands share, and how results are laid out on it."""

from .bars import progress_bar
from .command import (
    PATH,
    VOLUME,
    GroupedCommand,
    Volume,
    chosen_volume,
    run_command,
    volume_options,
)
from .layout import NAME, TEXT, WHOLE, Column
from .output import (
    MOST_WARNINGS,
    page_width,
    say,
    say_wrapped,
    show_table,
    warn,
    warn_of,
    warn_without_kernels,
)

__all__ = [
    "MOST_WARNINGS",
    "NAME",
    "PATH",
    "TEXT",
    "VOLUME",
    "WHOLE",
    "Column",
    "GroupedCommand",
    "Volume",
    "chosen_volume",
    "page_width",
    "progress_bar",
    "run_command",
    "say",
    "say_wrapped",
    "show_table",
    "volume_options",
    "warn",
    "warn_of",
    "warn_without_kernels",
]
