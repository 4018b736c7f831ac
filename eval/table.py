"""Figures and comparisons as tables for the terminal."""

from collections.abc import Sequence

from rich.console import JustifyMethod
from rich.table import Table

from eval.bootstrap import percent
from eval.compare import Compare
from eval.groups import LABELS
from eval.scores import Scores


def score_table(scores: Scores, title: str) -> Table:
    """Return the figures of an evaluation as a table: the main one of each group first."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("language", "clips", "figure", "normalised", "orthographic"):
        justify: JustifyMethod = "left" if column in ("language", "figure") else "right"
        table.add_column(column, justify=justify, no_wrap=column != "figure")
    for name, group in scores.named():
        about = (name, str(group.clips))
        for figure in group.shown():
            written = f"{figure}_ortho" if f"{figure}_ortho" in group.figures else ""
            cells = (group.told(figure), written and group.told(written))
            table.add_row(*about, LABELS[figure], *cells)
            about = ("", "")
        table.add_section()
    names = sorted({(name.split(",")[0], group.how) for name, group in scores.named()})
    empty = sum(group.empty for group in scores.groups + scores.long)
    told = [f"{language}: {how}" for language, how in names]
    table.caption = "\n".join([*told, f"In brackets: 95 %. Empty references left out: {empty}."])
    return table


def difference_table(found: Sequence[Compare], names: tuple[str, str]) -> Table:
    """Return comparisons as a table.

    Args:
        found: what compare() returned.
        names: of A and B.
    """
    title = f"A: {names[0]}\nB: {names[1]}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in (
        "language",
        "clips",
        "metric",
        "A",
        "B",
        "B better",
        "worse",
        "equal",
        "B less A",
    ):
        table.add_column(column, justify="left" if column in ("language", "metric") else "right")
    for each in found:
        told, clips = each.difference, each.clips
        shares = [f"{100 * n / clips:.0f} %" for n in (told.better, told.worse, told.equal)]
        rates = [percent(told.first), percent(told.second)]
        change = f"{100 * told.change:+.2f} points"
        table.add_row(each.name, str(clips), each.metric, *rates, *shares, change)
    table.caption = f"normaliser: {'; '.join(sorted({each.normalizer for each in found}))}"
    return table


def sentences(found: Sequence[Compare]) -> list[str]:
    """Return a verdict on each language, and how often B would win."""
    several = len(found) > 1
    return [
        f"{f'{each.name}: ' if several else ''}{each.difference.verdict}; B has the lower "
        f"{each.metric} in {100 * each.difference.chance:.1f} % of the draws"
        for each in found
    ]
