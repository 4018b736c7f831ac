"""What a run has changed: its scores on test, before and after."""

import json
from pathlib import Path

from rich.table import Table

from eval.metrics.confidence import percent, saved_percent
from eval.metrics.scores import saved_groups
from eval.report.console_tables import two_lines


def comparison(folder: Path, step: int) -> Table:
    """Return the table of a run's test scores before training and after it, from its files.

    Args:
        folder: the run's.
        step: the update whose model was chosen; an earlier end of the run may have reported others.
    """
    places = [folder / "eval" / f"step-{each:08d}" / "test" / "scores.json" for each in (0, step)]
    table = Table(title="test: before → after", title_justify="left", caption_justify="left")
    for column in ("language", "clips", "metric", "before", "after", "as written"):
        # 80 characters hold the widest figures where these two are folded
        table.add_column(column, no_wrap=column not in ("language", "as written"), min_width=5)
    if not all(path.is_file() for path in places):  # a full disk took one
        return table
    first, last = (json.loads(path.read_text(encoding="utf-8")) for path in places)
    normalizers = set()
    for (name, was), (_, now) in zip(saved_groups(first), saved_groups(last), strict=True):
        key = now["metric"].lower()
        normalizers.add(now["normalizer"])
        table.add_row(
            name,
            str(now["clips"]),
            now["metric"],
            two_lines(saved_percent(was[key])),
            f"[bold]{two_lines(saved_percent(now[key]))}[/]",
            f"{percent(was[key + '_ortho']['rate'])} → {percent(now[key + '_ortho']['rate'])}",
        )
    table.caption = f"In brackets: 95 %. Normaliser: {'; '.join(sorted(normalizers))}"
    return table
