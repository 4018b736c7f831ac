"""Console tables of scores, of evaluations, and of a comparison of two models."""

from collections.abc import Sequence

from rich import box
from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from eval.metrics.compare import ALL, Compare
from eval.metrics.confidence_intervals import percent
from eval.metrics.groups import LABELS
from eval.metrics.scores import Scores
from eval.report.figures import HEADINGS, NUMBERS, Summary, columns

LANGUAGE_WIDTH = 10  # characters of the column at most, so that the table fits into 100


def score_table(scores: Scores, title: str) -> Table:
    """Return a table of the error rates of an evaluation, the main one of each group first."""
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
    methods = sorted({(name.split(",")[0], group.method) for name, group in scores.named_groups()})
    empty = sum(group.empty for group in scores.groups + scores.long)
    lines = [f"{language}: {method}" for language, method in methods]
    lines.append(f"In brackets: 95 % intervals. Empty references left out: {empty}.")
    table.caption = "\n".join(lines)
    return table


def evaluation_table(rows: Sequence[Summary], caption: str) -> Table:
    """Return a table of evaluations in 100 columns, without lines, for terminals and log files."""
    table = Table(caption=escape(caption), caption_justify="left", box=None, pad_edge=False)
    shown = [name for name in columns(rows) if name != "before"]
    for name in shown:
        justify: JustifyMethod = "right" if name in NUMBERS else "left"
        no_wrap = name not in ("language", "hallucinations")
        width = LANGUAGE_WIDTH if name == "language" else None
        table.add_column(HEADINGS[name], justify=justify, no_wrap=no_wrap, max_width=width)
    for row in rows:
        table.add_row(*(escape(getattr(row, name)) for name in shown))
    return table


def two_lines(value: str) -> str:
    """Break the line before an interval, so that a table fits into 80 characters."""
    return value.replace(" (", "\n(")


def difference_table(comparisons: Sequence[Compare], names: tuple[str, str]) -> Table:
    """Return a table of the comparison of two models.

    Args:
        comparisons: what compare() returned.
        names: of models A and B.
    """
    title = escape(f"A: {names[0]}\nB: {names[1]}")
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("language")
    table.add_column("clips", justify="right")
    table.add_column("metric")
    for column in ("A", "B", "B better, worse, equal"):
        table.add_column(column, justify="right")
    for row in comparisons:
        difference = row.difference
        counts = (difference.better, difference.worse, difference.equal)
        shares = ", ".join(f"{100 * n / row.clips:.0f} %" for n in counts)
        rates = (difference.rate_a, difference.rate_b)
        intervals = row.sides or (None, None)
        cells = [two_lines(percent(*pair)) for pair in zip(rates, intervals, strict=True)]
        table.add_row(row.name, str(row.clips), row.metric, *cells, shares)
    normalizers = sorted({row.normalizer for row in comparisons if row.name != ALL})
    table.caption = f"Normaliser: {'; '.join(normalizers)}"
    return table


def verdicts(comparisons: Sequence[Compare]) -> list[str]:
    """Return the verdict for each language, with the share of bootstrap samples that B wins."""
    several = len(comparisons) > 1
    return [
        f"{f'{row.name}: ' if several else ''}{row.difference.verdict}; B has the lower "
        f"{row.metric} in {100 * row.difference.chance:.1f} % of the bootstrap samples"
        for row in comparisons
    ]
