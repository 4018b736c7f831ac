"""report.html and plots/: a run's curves and what it hears, readable with no server."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from data.files import read_jsonl, write_text
from data.page import STYLE, render, svg_of
from eval.scores import saved_groups
from trainer.recorder import METRICS

SAMPLES = 12  # transcripts shown
PLOTS = {  # file name → title, unit, the metrics that go into it (by the end of their names)
    "loss": ("training loss", "nats a token", ("train/loss",)),
    "error": ("error on dev", "%", ("dev/error",)),
    "speed": ("speed", "audio seconds a second", ("speed/audio_seconds_per_second",)),
    "share": ("waiting and padding", "%", ("speed/data_wait", "speed/encoder_padding")),
}


def write_report(folder: Path) -> None:
    """Draw what a run's files hold so far."""
    rows = list(read_jsonl(folder / METRICS))
    figures = []
    for name, (title, unit, metrics) in PLOTS.items():
        curves = {metric: _points(rows, metric) for metric in metrics}
        if any(curves.values()):
            figures.append(_draw(folder / "plots" / f"{name}.png", title, unit, curves))
    page = render(
        Path(__file__).with_name("report.html.j2"),
        name=folder.name,
        figures=figures,
        evaluations=_evaluations(folder),
        samples=_samples(folder),
        latest=_latest(rows),
        drops=_drops(folder),
    )
    write_text(folder / "report.html", page)


def _points(rows: list[dict[str, Any]], metric: str) -> list[tuple[int, float]]:
    return [(row["step"], row[metric]) for row in rows if metric in row]


def _draw(path: Path, title: str, unit: str, curves: dict[str, list[tuple[int, float]]]) -> str:
    """Draw curves over updates; write a PNG and return the SVG."""
    scale = 100 if unit == "%" else 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for name, points in curves.items():
            steps, values = [p[0] for p in points], [scale * p[1] for p in points]
            axes.plot(steps, values, marker="o", markersize=2.5, linewidth=1.2, label=name)
        axes.set(title=title, xlabel="update", ylabel=unit)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        if len(curves) > 1:
            axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return svg_of(figure)


def _evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return one row an evaluation, split and language."""
    rows = []
    for path in sorted((folder / "eval").glob("step-*/*/scores.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        for name, figures in saved_groups(scores):
            row = {"step": scores["step"], "split": path.parent.name, **figures}
            rows.append({**row, "language": name})
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
