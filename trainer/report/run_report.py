"""Write report.html of a run: results, settings, curves, scores and transcripts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from data.atomic_files import read_jsonl, write_text
from data.pages.page import render, to_svg
from eval.metrics.confidence_intervals import saved_percent
from eval.probes.hallucination import COUNTS, SIGNS
from eval.report.figures import HEADINGS, NUMBERS, Summary, columns, summaries, totals
from trainer.metrics.console import evaluation_folder, verdicts
from trainer.metrics.recorder import METRICS
from trainer.publish.card_training_details import table
from trainer.report.plots import ERRORS, draw_figures

NUM_SAMPLES = 12  # transcripts on the page
HIDDEN = ("before", "hallucinations")  # columns that the table of scores leaves out
# settings at the top of the page: name in the model card → label
SETTINGS = {
    "loop.max_steps": "updates",
    "loop.epochs": "epochs",
    "optim.lr": "learning rate",
    "data.update_seconds": "audio seconds per update",
    "data.update_clips": "clips per update",
    "computed in": "precision",
    "hardware": "hardware",
    "time": "wall time",
}

Saved = dict[str, Any]  # a scores.json


def write_report(folder: Path, facts: dict[str, Any]) -> None:
    """Write report.html from the files of a run, during training or after it.

    Args:
        folder: of the run.
        facts: what facts_of() returned.
    """
    rows = list(read_jsonl(folder / METRICS))
    evaluations = list(_evaluations(folder))
    scored = [row for row in evaluations if row[1] != "forgetting"]
    settings = _settings(folder, facts)
    page = render(
        Path(__file__).with_name("report.html.j2"),
        name=folder.resolve().name,
        headline=_headline(folder, facts, scored),
        settings=[(label, settings[name]) for name, label in SETTINGS.items() if name in settings],
        all_settings=settings,
        about=_about(facts),
        curves=[Markup(to_svg(figure)) for figure in draw_figures(folder, rows).values()],
        scores=_table(folder, scored),
        forgetting=_table(folder, [row for row in evaluations if row[1] == "forgetting"]),
        signs=[SIGNS[name].label for name in COUNTS],
        hallucinations=list(_hallucinations(scored)),
        samples=_samples(folder),
        latest=next((row for row in reversed(rows) if "train/loss" in row), {}),
        drops=_drops(folder),
    )
    write_text(folder / "report.html", page)


def _evaluations(folder: Path) -> Iterator[tuple[int, str, Saved]]:
    """Yield step, split and scores.json of all evaluations, sorted."""
    for path in sorted((folder / "eval").glob("step-*/*/scores.json")):
        scores = json.loads(path.read_text(encoding="utf-8"))
        yield scores["step"], path.parent.name, scores


def _headline(
    folder: Path, facts: dict[str, Any], scored: list[tuple[int, str, Saved]]
) -> dict[str, Any] | None:
    """Return the result at the top of the page: on test if it was scored, else the last on dev."""
    scores = {(split, step): saved for step, split, saved in scored}
    final = ("test", facts.get("step", 0))
    dev = [("dev", step) for step, split, _ in scored if split == "dev" and step]
    split, step = final if final in scores and final[1] else ("", 0)
    if not split and dev:
        split, step = dev[-1]
    if not split or (split, 0) not in scores:
        return None
    groups = totals(scores[split, step], scores[split, 0])
    results = [
        {
            "of": f"{split}, {total.name}" if total.name else split,
            "clips": total.saved["clips"],
            "metric": ERRORS[total.saved["metric"]],
            "before": saved_percent(total.earlier[total.saved["metric"].lower()]),
            "after": saved_percent(total.saved[total.saved["metric"].lower()]),
        }
        for total in groups
        if total.before is not None
    ]
    return {"results": results, "step": step, "verdicts": verdicts(folder, step, split)}


def _settings(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return settings, hardware and time of a run, as in its model card."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(table(folder, config, facts))


def _about(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rows with the base model and the training data."""
    if not facts:
        return []
    corpora = ", ".join(corpus["name"] for corpus in facts["corpora"]) or "a stream"
    clips = "" if facts["clips"] is None else f", {facts['clips']:,} clips"
    audio = f"{facts['hours']:.2f} h{clips}"
    return [("model", facts["base_model"]), ("corpus", corpora), ("training audio", audio)]


def _table(folder: Path, evaluations: list[tuple[int, str, Saved]]) -> dict[str, Any]:
    """Return headings and rows of a table of evaluations, with links to their pages."""
    first = {split: saved for step, split, saved in evaluations if not step}
    rows: list[tuple[int, str | None, Summary]] = []
    for step, split, saved in evaluations:
        page = evaluation_folder(folder, step, split) / "report.html"
        link = str(page.relative_to(folder)) if page.is_file() else None
        earlier = first.get(split, {}) if step else {}
        summary = [row for row in summaries(split, saved, earlier) if row.error]
        rows += [(step, link if n == 0 else None, row) for n, row in enumerate(summary)]
    shown = [name for name in columns([row for *_, row in rows]) if name not in HIDDEN]
    return {
        "heads": [(HEADINGS[name], name in NUMBERS) for name in shown],
        "rows": [(step, link, [getattr(row, name) for name in shown]) for step, link, row in rows],
    }


def _hallucinations(scored: list[tuple[int, str, Saved]]) -> Iterator[list[Any]]:
    """Yield step, split, clips, clips with each sign, and texts in silence and noise."""
    for step, split, saved in scored:
        if counts := saved.get("meters"):
            noise = counts.get("noise")
            texts = f"{noise['spoken']} of {noise['clips']}" if noise else "–"
            yield [step, split, counts["clips"], *(counts[name] for name in COUNTS), texts]


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Return some utterances of test, or of dev, with hypotheses before and after training."""
    paths = sorted((folder / "eval").glob("step-*/test/utterances.jsonl"))
    paths = paths or sorted((folder / "eval").glob("step-*/dev/utterances.jsonl"))
    if not paths:
        return []
    before = {row["id"]: row["hypothesis"] for row in read_jsonl(paths[0])}
    after = list(read_jsonl(paths[-1]))
    samples = after[:: max(1, len(after) // NUM_SAMPLES)][:NUM_SAMPLES]
    return [{**row, "before": before.get(row["id"], "")} for row in samples]


def _drops(folder: Path) -> list[tuple[str, str, int]]:
    """Return split, reason and number of the clips that were left out."""
    path = folder / "drops.jsonl"
    counts: dict[tuple[str, str], int] = {}
    for row in read_jsonl(path) if path.exists() else ():
        key = (row["split"], row["reason"])
        counts[key] = counts.get(key, 0) + 1
    return [(split, reason, n) for (split, reason), n in sorted(counts.items())]
