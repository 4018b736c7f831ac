"""A run's curves: as data for its page, and as pictures for where no page can be opened."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from data.atomic_files import read_jsonl
from data.pages.page import STYLE
from trainer.metrics.recorder import METRICS

Row = dict[str, Any]  # of metrics.jsonl
Point = tuple[float, ...]  # (update, value), or (update, value, low, high) with its interval
MOST = 2000  # points of a curve
FIGURES = {  # file name → title, unit, the metrics that go into it
    "loss": ("training loss", "nats a token", ("train/loss",)),
    "error": ("error", "%", ("dev/error", "test/error")),
    "speed": ("speed", "audio seconds a second", ("speed/audio_seconds_per_second",)),
    "share": ("waiting and padding", "%", ("speed/data_wait", "speed/encoder_padding")),
}


def curves_of(folder: Path, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the figures for which a run has points: name, title, unit and curves.

    Args:
        folder: of the run.
        rows: of its metrics.jsonl.
    """
    figures = []
    for name, (title, unit, metrics) in FIGURES.items():
        found = {metric: _points(folder, rows, metric, unit) for metric in metrics}
        curves = [{"name": metric, "points": found[metric]} for metric in metrics if found[metric]]
        if curves:
            figures.append({"name": name, "title": title, "unit": unit, "curves": curves})
    return figures


def write_plots(folder: Path) -> None:
    """Draw a run's curves into plots/: a tenth of a second each, so at its end alone."""
    for figure in curves_of(folder, list(read_jsonl(folder / METRICS))):
        _draw(folder / "plots" / f"{figure['name']}.png", figure)


def _points(folder: Path, rows: Sequence[Row], metric: str, unit: str) -> list[Point]:
    scale = 100 if unit == "%" else 1
    known = [row for row in rows if metric in row]
    kept = [*known[:-1][:: len(known) // MOST + 1], *known[-1:]]
    split, _, figure = metric.partition("/")
    points: list[Point] = []
    for row in kept:
        interval = _interval(folder, split, row["step"]) if figure == "error" else ()
        points.append((row["step"], *(scale * value for value in (row[metric], *interval))))
    return points


def _interval(folder: Path, split: str, step: int) -> tuple[float, ...]:
    """Return the 95 % interval of a split's error after an update, where its file says one."""
    path = folder / "eval" / f"step-{step:08d}" / split / "scores.json"
    if not path.is_file():
        return ()
    return tuple(json.loads(path.read_text(encoding="utf-8")).get("interval") or ())


def _draw(path: Path, told: dict[str, Any]) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for curve in told["curves"]:
            steps, values = zip(*(point[:2] for point in curve["points"]), strict=True)
            axes.plot(steps, values, marker="o", markersize=2.5, linewidth=1.2, label=curve["name"])
            sure = [point for point in curve["points"] if len(point) > 2]
            if sure:
                steps, _, lows, highs = zip(*sure, strict=True)
                axes.fill_between(steps, lows, highs, alpha=0.15)
        axes.set(title=told["title"], xlabel="update", ylabel=told["unit"])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        if len(told["curves"]) > 1:
            axes.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
