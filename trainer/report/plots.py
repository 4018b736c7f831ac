"""A run's curves, drawn once: as SVG in its page, and as PNG where no page can be opened."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from data.atomic_files import read_jsonl
from data.pages.page import STYLE
from trainer.metrics.recorder import METRICS

Row = dict[str, Any]  # of metrics.jsonl
Point = tuple[float, ...]  # (update, value), or (update, value, low, high) with its interval
MOST = 2000  # points of a curve
WHOLE = 100.0  # %
MARKED = 60  # points, of a curve on which each is marked
COLOURS, LINES = ("#2f6690", "#b5651d"), ("-", "--")  # curves differ without colour too
ERRORS = {
    "WER": "word error rate",
    "CER": "character error rate",
    "MER": "mixed error rate",
}


class Chart(NamedTuple):
    """A picture of some metrics over updates."""

    title: str
    unit: str
    curves: dict[str, str]  # metric → legend


CHARTS = {  # by file name
    "loss": Chart("loss", "nats a token", {"train/loss": "training loss", "dev/loss": "dev loss"}),
    "error": Chart("{error}", "%", {"dev/error": "dev {error}", "test/error": "test {error}"}),
    "lr": Chart("learning rate", "", {"train/lr": "learning rate"}),
    "speed": Chart("speed", "audio seconds a second", {"speed/audio_seconds_per_second": "speed"}),
    "share": Chart(
        "waiting and padding",
        "%",
        {
            "speed/data_wait": "time waiting for data",
            "speed/encoder_padding": "padding of the encoder's input",
        },
    ),
}


def figures_of(folder: Path, rows: Sequence[Row]) -> dict[str, Figure]:
    """Return a figure for each chart of which a run has points, by file name.

    Args:
        folder: of the run.
        rows: of its metrics.jsonl.
    """
    found = {}
    for name, chart in CHARTS.items():
        curves = {metric: points_of(folder, rows, metric, chart.unit) for metric in chart.curves}
        if any(curves.values()):
            found[name] = _draw(chart, curves, _error_name(folder))
    return found


def write_plots(folder: Path) -> None:
    """Write a run's figures into plots/."""
    for name, figure in figures_of(folder, list(read_jsonl(folder / METRICS))).items():
        path = folder / "plots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def points_of(folder: Path, rows: Sequence[Row], metric: str, unit: str) -> list[Point]:
    """Return the points of a metric: 2,000 at most, the first and the last among them."""
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


def _error_name(folder: Path) -> str:
    """Return the name of a run's errors; of languages with several units, one for all."""
    path = max((folder / "eval").glob("step-*/*/scores.json"), default=None)
    if path is None:
        return "error rate"
    saved = json.loads(path.read_text(encoding="utf-8"))
    metrics = {group["metric"] for group in saved["languages"].values()}
    return ERRORS[metrics.pop()] if len(metrics) == 1 else "error rate"


def _draw(chart: Chart, curves: dict[str, list[Point]], error: str) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6))
        # a layout that is computed draws everything twice
        axes = figure.add_axes((0.14, 0.18, 0.83, 0.7))
        for (metric, points), colour, line in zip(curves.items(), COLOURS, LINES, strict=False):
            if not points:
                continue
            steps, values = zip(*(point[:2] for point in points), strict=True)
            marker = "o" if len(points) <= MARKED else ""
            style: Any = {"color": colour, "linestyle": line, "marker": marker, "markersize": 2.5}
            label = chart.curves[metric].format(error=error)
            axes.plot(steps, values, linewidth=1.2, label=label, **style)
            sure = [point for point in points if len(point) > 2]
            if sure:
                steps, _, lows, highs = zip(*sure, strict=True)
                axes.fill_between(steps, lows, highs, alpha=0.15, color=colour, linewidth=0)
        axes.set(title=chart.title.format(error=error), xlabel="update", ylabel=chart.unit)
        top = axes.get_ylim()[1]
        least = min(point[1] for points in curves.values() for point in points)
        if chart.unit == "%" and least < WHOLE:  # what is above would hide all else
            top = min(top, 1.05 * WHOLE)
        axes.set_ylim(0, 1.2 * top if len(chart.curves) > 1 else top)  # room for the legend
        axes.grid(alpha=0.25)
        if len(chart.curves) > 1:
            axes.legend(frameon=False)
    return figure
