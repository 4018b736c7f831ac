"""What a run has changed: its scores on test, before and after."""

import json
from pathlib import Path

from rich.table import Table

from eval.bootstrap import percent, saved_percent
from eval.scores import saved_groups
from eval.table import two_lines


def comparison(folder: Path) -> Table:
    """Return the table of a run's test scores before and after, from its files."""
    steps = sorted((folder / "eval").glob("step-*/test/scores.json"))
    table = Table(title="test: before → after", title_justify="left", caption_justify="left")
    for column in ("language", "clips", "metric", "before", "after", "as written"):
        # 80 characters hold the widest figures where these two are folded
        table.add_column(column, no_wrap=column not in ("language", "as written"), min_width=5)
    if not steps:
        return table
    first, last = (json.loads(path.read_text(encoding="utf-8")) for path in (steps[0], steps[-1]))
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
