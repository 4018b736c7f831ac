"""Tables and a histogram of durations, for the terminal and for HTML pages."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
import rich.table
from numpy.typing import NDArray
from rich.bar import Bar
from rich.console import Group
from rich.text import Text

from data.log_mel import CHUNK_SECONDS
from data.pages.page import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR = 40  # characters of the longest bar
NARROW = 10  # minimum characters of a text column, however wide the numbers are
CONTROL = re.compile(
    "[\0-\x09\x0b-\x1f\x7f-\x9f]"
)  # escape sequences of a corpus must not reach the terminal
TAIL = 0.99  # share of clips; the terminal shows one bar for the rest


class Table(NamedTuple):
    """A table of text and numbers, with a note below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    texts: int = 1  # number of text columns, from the left; the others are numbers

    def to_rich(self) -> Group:
        """Return the table for the terminal."""
        title, note = _text(self.title), _text(f"{self.note}\n" if self.note else "")
        if not self.rows:
            return Group(title, note)
        table = rich.table.Table(title=title, title_justify="left")
        for number, column in enumerate(self.columns):
            if number < self.texts:
                longest = max(len(column), *(len(row[number]) for row in self.rows))
                table.add_column(column, overflow="fold", min_width=min(NARROW, longest))
            else:
                table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(_text, row))
        return Group(table, note)


def _text(text: str) -> Text:
    return Text(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def length_counts(seconds: NDArray[np.float64]) -> list[int]:
    """Return the number of clips of 0 to 1 s, 1 to 2 s …; the last one is for 30 s and more."""
    whole = np.minimum(np.floor(seconds), CHUNK_SECONDS).astype(int)
    counts: list[int] = np.bincount(whole, minlength=CHUNK_SECONDS + 1).tolist()
    return counts


def draw_lengths(counts: list[int]) -> rich.table.Table:
    """Return a histogram for the terminal, with one bar for the longest 1 % of the clips."""
    table = rich.table.Table("seconds", title="lengths", title_justify="left", box=None)
    table.add_column("clips", justify="right")
    table.add_column()
    last = int(np.searchsorted(np.cumsum(counts[:-1]), TAIL * sum(counts)))
    last = min(last, CHUNK_SECONDS - 1)
    shown = [*counts[: last + 1], sum(counts[last + 1 :])]
    for second, count in enumerate(shown):
        span = f"{second} and more" if second > last else f"{second} to {second + 1}"
        table.add_row(span, f"{count:,}", Bar(max(shown), 0, count, width=BAR))
    return table


def plot_lengths(counts: list[int]) -> "Figure":
    """Return a histogram for an HTML page."""
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.bar(np.arange(len(counts)) + 0.5, counts, width=0.9)
        axes.set(xlabel="seconds; the last bar: 30 s and more", ylabel="clips")
        axes.set_xlim(0, len(counts))
        axes.grid(axis="y", alpha=0.25)
    return figure
