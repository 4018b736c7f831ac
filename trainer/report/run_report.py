"""report.html: what a run achieved, its settings, curves, scores and transcripts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from data.atomic_files import read_jsonl, write_text
from data.pages.page import render, to_svg
from eval.metrics.confidence import saved_percent
from eval.probes.hallucination import COUNTS, SIGNS
from eval.report.figures import HEADINGS, NUMBERS, Summary, columns, summaries, totals
from trainer.metrics.console import evaluation_folder, verdicts
from trainer.metrics.recorder import METRICS
from trainer.publish.card_training_details import table
from trainer.report.plots import ERRORS, figures_of

SAMPLES = 12  # transcripts shown
APART = ("before", "hallucinations")  # columns that the table of scores does without
# of the settings, those that are shown at once: name in the model card → on the page
SETTINGS = {
    "loop.max_steps": "updates",
    "loop.epochs": "epochs",
    "optim.lr": "learning rate",
    "data.update_seconds": "audio seconds of an update",
    "data.update_clips": "clips of an update",
    "computed in": "precision",
    "hardware": "hardware",
    "time": "wall time",
}

Saved = dict[str, Any]  # a scores.json


def write_report(folder: Path, facts: dict[str, Any]) -> None:
    """Write what a run's files hold so far.

    Args:
        folder: the run's.
        facts: what facts_of() returns.
    """
    rows = list(read_jsonl(folder / METRICS))
    found = list(_evaluations(folder))
    scored = [each for each in found if each[1] != "forgetting"]
    settings = _settings(folder, facts)
    page = render(
        Path(__file__).with_name("report.html.j2"),
        name=folder.resolve().name,
        headline=_headline(folder, facts, scored),
        settings=[(told, settings[name]) for name, told in SETTINGS.items() if name in settings],
        all_settings=settings,
        about=_about(facts),
        curves=[Markup(to_svg(each)) for each in figures_of(folder, rows).values()],
        scores=_table(folder, scored),
        forgetting=_table(folder, [each for each in found if each[1] == "forgetting"]),
        signs=[SIGNS[name].label for name in COUNTS],
        hallucinations=list(_hallucinations(scored)),
        samples=_samples(folder),
        latest=next((row for row in reversed(rows) if "train/loss" in row), {}),
        drops=_drops(folder),
    )
    write_text(folder / "report.html", page)


def _evaluations(folder: Path) -> Iterator[tuple[int, str, Saved]]:
    """Yield all evaluations in order: update, split, scores.json."""
    for path in sorted((folder / "eval").glob("step-*/*/scores.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        yield saved["step"], path.parent.name, saved


def _headline(
    folder: Path, facts: dict[str, Any], scored: list[tuple[int, str, Saved]]
) -> dict[str, Any] | None:
    """Return the result: of test where the best model was scored on it, else of dev so far."""
    found = {(split, step): saved for step, split, saved in scored}
    reported = ("test", facts.get("step", 0))
    later = [("dev", step) for step, split, _ in scored if split == "dev" and step]
    split, step = reported if reported in found and reported[1] else ("", 0)
    if not split and later:
        split, step = later[-1]
    if not split or (split, 0) not in found:
        return None
    groups = totals(found[split, step], found[split, 0])
    results = [
        {
            "of": f"{split}, {total.name}" if total.name else split,
            "clips": total.saved["clips"],
            "metric": ERRORS[total.saved["metric"]],
            "before": saved_percent(total.was[total.saved["metric"].lower()]),
            "after": saved_percent(total.saved[total.saved["metric"].lower()]),
        }
        for total in groups
        if total.before is not None
    ]
    return {"results": results, "step": step, "verdicts": verdicts(folder, step, split)}


def _settings(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, machine and time of a run, as its model card has them."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(table(folder, config, facts))


def _about(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was trained on what."""
    if not facts:
        return []
    corpora = ", ".join(each["name"] for each in facts["corpora"]) or "a stream"
    clips = "" if facts["clips"] is None else f", {facts['clips']:,} clips"
    audio = f"{facts['hours']:.2f} h{clips}"
    return [("model", facts["base_model"]), ("corpus", corpora), ("training audio", audio)]


def _table(folder: Path, found: list[tuple[int, str, Saved]]) -> dict[str, Any]:
    """Return headings and rows of evaluations; each row with the address of its page."""
    first = {split: saved for step, split, saved in found if not step}
    rows: list[tuple[int, str | None, Summary]] = []
    for step, split, saved in found:
        page = evaluation_folder(folder, step, split) / "report.html"
        link = str(page.relative_to(folder)) if page.is_file() else None
        was = first.get(split, {}) if step else {}
        told = [row for row in summaries(split, saved, was) if row.error]
        rows += [(step, link if n == 0 else None, row) for n, row in enumerate(told)]
    shown = [name for name in columns([row for *_, row in rows]) if name not in APART]
    return {
        "heads": [(HEADINGS[name], name in NUMBERS) for name in shown],
        "rows": [(step, link, [getattr(row, name) for name in shown]) for step, link, row in rows],
    }


def _hallucinations(scored: list[tuple[int, str, Saved]]) -> Iterator[list[Any]]:
    """Yield rows: update, split, clips, those with each sign, text in silence and noise."""
    for step, split, saved in scored:
        if counts := saved.get("meters"):
            noise = counts.get("noise")
            told = f"{noise['spoken']} of {noise['clips']}" if noise else "–"
            yield [step, split, counts["clips"], *(counts[name] for name in COUNTS), told]


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Return utterances of the last scored split, with the texts of the first and last model."""
    found = sorted((folder / "eval").glob("step-*/test/utterances.jsonl"))
    found = found or sorted((folder / "eval").glob("step-*/dev/utterances.jsonl"))
    if not found:
        return []
    before = {row["id"]: row["hypothesis"] for row in read_jsonl(found[0])}
    after = list(read_jsonl(found[-1]))
    chosen = after[:: max(1, len(after) // SAMPLES)][:SAMPLES]
    return [{**row, "before": before.get(row["id"], "")} for row in chosen]


def _drops(folder: Path) -> list[tuple[str, str, int]]:
    """Return how many clips were left out: by split and reason."""
    path = folder / "drops.jsonl"
    counts: dict[tuple[str, str], int] = {}
    for row in read_jsonl(path) if path.exists() else ():
        key = (row["split"], row["reason"])
        counts[key] = counts.get(key, 0) + 1
    return [(split, reason, n) for (split, reason), n in sorted(counts.items())]
