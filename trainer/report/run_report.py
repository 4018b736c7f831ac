"""report.html: a run's curves and what it hears, readable with no server."""

import json
from pathlib import Path
from typing import Any

from data.atomic_files import read_jsonl, write_text
from data.pages.page import render
from eval.metrics.scores import saved_groups
from trainer.metrics.recorder import METRICS
from trainer.report.plots import curves_of

SAMPLES = 12  # transcripts shown


def write_report(folder: Path) -> None:
    """Write what a run's files hold so far."""
    rows = list(read_jsonl(folder / METRICS))
    here = Path(__file__)
    page = render(
        here.with_name("report.html.j2"),
        script=here.with_name("curves.js"),
        rows=curves_of(folder, rows),
        name=folder.resolve().name,
        evaluations=_evaluations(folder),
        samples=_samples(folder),
        latest=_latest(rows),
        drops=_drops(folder),
    )
    write_text(folder / "report.html", page)


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return one row an evaluation, split and language."""
    rows = []
    for path in sorted((folder / "eval").glob("step-*/*/scores.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        for name, figures in saved_groups(scores):
            main = figures.get(figures["metric"].lower())
            if main is None:  # every reference is empty
                continue
            row = {"step": scores["step"], "split": path.parent.name, "language": name}
            page = path.with_name("report.html")
            row["page"] = str(page.relative_to(folder)) if page.is_file() else None
            row["interval"] = main.get("interval")
            row["main"], row["ortho"] = main, figures.get(f"{figures['metric'].lower()}_ortho")
            rows.append({**figures, **row})
    return rows


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Return utterances of the last scored split, with what the first and the last model heard."""
    found = sorted((folder / "eval").glob("step-*/test/utterances.jsonl"))
    found = found or sorted((folder / "eval").glob("step-*/dev/utterances.jsonl"))
    if not found:
        return []
    before = {row["id"]: row["hypothesis"] for row in read_jsonl(found[0])}
    after = list(read_jsonl(found[-1]))
    chosen = after[:: max(1, len(after) // SAMPLES)][:SAMPLES]
    return [{**row, "before": before.get(row["id"], "")} for row in chosen]


def _latest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the last training line."""
    return next((row for row in reversed(rows) if "train/loss" in row), {})


def _drops(folder: Path) -> list[tuple[str, str, int]]:
    """Return how many clips were left out: by split and reason."""
    path = folder / "drops.jsonl"
    counts: dict[tuple[str, str], int] = {}
    for row in read_jsonl(path) if path.exists() else ():
        key = (row["split"], row["reason"])
        counts[key] = counts.get(key, 0) + 1
    return [(split, reason, n) for (split, reason), n in sorted(counts.items())]
