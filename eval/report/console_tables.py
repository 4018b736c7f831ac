"""Figures and comparisons as tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from eval.metrics.compare import ALL, Compare
from eval.metrics.confidence import percent
from eval.metrics.groups import LABELS
from eval.metrics.scores import Scores
from eval.report.figures import HEADINGS, NUMBERS, Summary, columns

LANGUAGE = 10  # characters of a column, which leave the others room in 100


def score_table(scores: Scores, title: str) -> Table:
    """Return the figures of an evaluation as a table: the main one of each group first."""
    table = Table(
        title=escape(title), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    for column in ("language", "clips", "figure", "normalised", "orthographic"):
        justify: JustifyMethod = "left" if column in ("language", "figure") else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for name, group in scores.named_groups():
        about = (escape(name), str(group.clips))
        for figure in group.shown_metrics():
            written = f"{figure}_ortho" if f"{figure}_ortho" in group.figures else ""
            cells = (
                two_lines(group.formatted(figure)),
                two_lines(written and group.formatted(written)),
            )
            table.add_row(*about, LABELS[figure], *cells)
            about = ("", "")
        table.add_section()
    names = sorted({(name.split(",")[0], group.method) for name, group in scores.named_groups()})
    empty = sum(group.empty for group in scores.groups + scores.long)
    told = [f"{language}: {how}" for language, how in names]
    table.caption = "\n".join([*told, f"In brackets: 95 %. Empty references left out: {empty}."])
    return table


def evaluation_table(rows: Sequence[Summary], caption: str) -> Table:
    """Return rows of evaluations as a table of 100 columns; in a file it is as legible."""
    table = Table(caption=escape(caption), caption_justify="left", box=None, pad_edge=False)
    shown = [name for name in columns(rows) if name != "before"]
    for name in shown:
        justify: JustifyMethod = "right" if name in NUMBERS else "left"
        whole = name not in ("language", "hallucinations")  # these two are folded
        most = LANGUAGE if name == "language" else None
        table.add_column(HEADINGS[name], justify=justify, no_wrap=whole, max_width=most)
    for row in rows:
        table.add_row(*(escape(getattr(row, name)) for name in shown))
    return table


def two_lines(told: str) -> str:
    """Return a figure above its interval, so that 80 characters hold a table of them."""
    return told.replace(" (", "\n(")


def difference_table(found: Sequence[Compare], names: tuple[str, str]) -> Table:
    """Return comparisons as a table.

    Args:
        found: what compare() returned.
        names: of A and B.
    """
    title = escape(f"A: {names[0]}\nB: {names[1]}")
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("language")
    table.add_column("clips", justify="right")
    table.add_column("metric")
    for column in ("A", "B", "B better, worse, equal"):
        table.add_column(column, justify="right")
    for each in found:
        told, clips = each.difference, each.clips
        shares = [f"{100 * n / clips:.0f} %" for n in (told.better, told.worse, told.equal)]
        rates = zip((told.rate_a, told.rate_b), each.sides or (None, None), strict=True)
        cells = [two_lines(percent(rate, side)) for rate, side in rates]
        table.add_row(each.name, str(clips), each.metric, *cells, ", ".join(shares))
    table.caption = "Normaliser: " + "; ".join(
        sorted({each.normalizer for each in found if each.name != ALL})
    )
    return table


def sentences(found: Sequence[Compare]) -> list[str]:
    """Return a verdict on each language, and how often B would win."""
    several = len(found) > 1
    return [
        f"{f'{each.name}: ' if several else ''}{each.difference.verdict}; B has the lower "
        f"{each.metric} in {100 * each.difference.chance:.1f} % of the draws"
        for each in found
    ]
