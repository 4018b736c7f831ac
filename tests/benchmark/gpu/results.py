"""What the run on a GPU has found, as one table."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

WORDS = {"ok": "[green]ok[/]", "skipped": "[yellow]skipped[/]"}
OWN = ("step", "row", "status", "seconds", "why", "tail")  # keys that are no figures


def results(rows: Sequence[dict[str, Any]]) -> Table:
    """Return a line a step and, below it, a line for each of its rows."""
    shown = Table(title="the run on a GPU", title_justify="left")
    shown.add_column("step", no_wrap=True)
    shown.add_column("s", justify="right", no_wrap=True)
    shown.add_column("found")
    for end in (row for row in rows if "status" in row):
        status = WORDS.get(end["status"], f"[red]{end['status']}[/]")
        why = escape(f" {end['why']}" if end.get("why") else "")
        shown.add_row(f"[bold]{end['step']}[/]", f"{end['seconds']:.0f}", f"{status}{why}")
        for row in rows:
            if row["step"] == end["step"] and "status" not in row:
                found = ", ".join(
                    f"{key} {figure(value)}" for key, value in row.items() if key not in OWN
                )
                shown.add_row("", "", escape(f"{row['row']}: {found}"))
    return shown


def figure(value: Any) -> str:
    """Return a figure as a table shows it."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
