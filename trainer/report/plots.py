"""Plot the curves of a run: SVG in report.html, and PNG in plots/."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl

from data.atomic_files import read_jsonl
from data.pages.page import STYLE
from trainer.metrics.recorder import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]  # of metrics.jsonl
Point = tuple[float, ...]  # (update, value), or (update, value, low, high) with an interval
MAX_POINTS = 2000  # of a curve
MAX_MARKERS = 60  # a curve with more points has no markers
FULL_PERCENT = 100.0
COLOURS, LINES = ("#2f6690", "#b5651d"), ("-", "--")  # curves differ in print, too
ERRORS = {
    "WER": "word error rate",
    "CER": "character error rate",
    "MER": "mixed error rate",
}


class Chart(NamedTuple):
    """A chart of one or two metrics over updates."""

    title: str
    unit: str  # of the y axis
    curves: dict[str, str]  # metric → legend


CHARTS = {  # by file name
    "loss": Chart("loss", "nats/token", {"train/loss": "training loss", "dev/loss": "dev loss"}),
    "error": Chart("{error}", "%", {"dev/error": "dev {error}", "test/error": "test {error}"}),
    "lr": Chart("learning rate", "", {"train/lr": "learning rate"}),
    "speed": Chart("speed", "audio-s/s", {"speed/audio_seconds_per_second": "speed"}),
    "share": Chart(
        "waiting and padding",
        "%",
        {
            "speed/data_wait": "time waiting for data",
            "speed/encoder_padding": "padding in the encoder's input",
        },
    ),
}


def draw_figures(folder: Path, rows: Sequence[Row]) -> dict[str, "Figure"]:
    """Return a figure by file name for each chart that has data.

    Args:
        folder: of the run.
        rows: of its metrics.jsonl.
    """
    figures = {}
    for name, chart in CHARTS.items():
        curves = {metric: curve_points(folder, rows, metric, chart.unit) for metric in chart.curves}
        if any(curves.values()):
            figures[name] = _draw(chart, curves, _error_name(folder))
    return figures


def write_plots(folder: Path) -> None:
    """Write the figures of a run to plots/*.png."""
    for name, figure in draw_figures(folder, list(read_jsonl(folder / METRICS))).items():
        path = folder / "plots" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def curve_points(folder: Path, rows: Sequence[Row], metric: str, unit: str) -> list[Point]:
    """Return at most 2,000 points of a metric, including the first and the last."""
    scale = 100 if unit == "%" else 1
    measured = [row for row in rows if metric in row]
    shown = [*measured[:-1][:: len(measured) // MAX_POINTS + 1], *measured[-1:]]
    split, _, name = metric.partition("/")
    points: list[Point] = []
    for row in shown:
        interval = _interval(folder, split, row["step"]) if name == "error" else ()
        points.append((row["step"], *(scale * value for value in (row[metric], *interval))))
    return points


def _interval(folder: Path, split: str, step: int) -> tuple[float, ...]:
    """Return the 95 % interval of the error rate in an evaluation's scores.json, or ()."""
    path = folder / "eval" / f"step-{step:08d}" / split / "scores.json"
    if not path.is_file():
        return ()
    return tuple(json.loads(path.read_text(encoding="utf-8")).get("interval") or ())


def _error_name(folder: Path) -> str:
    """Return the name of a run's error rate; "error rate" if languages differ in the unit."""
    path = max((folder / "eval").glob("step-*/*/scores.json"), default=None)
    if path is None:
        return "error rate"
    scores = json.loads(path.read_text(encoding="utf-8"))
    metrics = {group["metric"] for group in scores["languages"].values()}
    return ERRORS[metrics.pop()] if len(metrics) == 1 else "error rate"


def _draw(chart: Chart, curves: dict[str, list[Point]], error: str) -> "Figure":
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.6))
        # fixed axes: an automatic layout would draw everything twice
        axes = figure.add_axes((0.14, 0.18, 0.83, 0.7))
        for (metric, points), colour, line in zip(curves.items(), COLOURS, LINES, strict=False):
            if not points:
                continue
            steps, values = zip(*(point[:2] for point in points), strict=True)
            marker = "o" if len(points) <= MAX_MARKERS else ""
            style: Any = {"color": colour, "linestyle": line, "marker": marker, "markersize": 2.5}
            label = chart.curves[metric].format(error=error)
            axes.plot(steps, values, linewidth=1.2, label=label, **style)
            bands = [point for point in points if len(point) > 2]
            if bands:
                steps, _, lows, highs = zip(*bands, strict=True)
                axes.fill_between(steps, lows, highs, alpha=0.15, color=colour, linewidth=0)
        axes.set(title=chart.title.format(error=error), xlabel="update", ylabel=chart.unit)
        top = axes.get_ylim()[1]
        lowest = min(point[1] for points in curves.values() for point in points)
        if chart.unit == "%" and lowest < FULL_PERCENT:  # larger values would flatten the curve
            top = min(top, 1.05 * FULL_PERCENT)
        axes.set_ylim(0, 1.2 * top if len(chart.curves) > 1 else top)  # space for the legend
        axes.grid(alpha=0.25)
        if len(chart.curves) > 1:
            axes.legend(frameon=False)
    return figure
