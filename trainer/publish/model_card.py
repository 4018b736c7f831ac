"""Render the model card: base model, scores, limitations, data and training details.

The card is made from the files in a run's folder. What they do not contain is stated as unknown.
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from data.atomic_files import read_jsonl
from data.corpora.common_voice import contains_held_out_speakers
from eval.metrics.confidence_intervals import percent, saved_percent
from eval.probes.hallucination import COUNTS
from eval.report.figures import facts as evaluation_facts
from eval.report.figures import normalizers, totals
from trainer.publish.card_metadata import loading_name, yaml_block
from trainer.publish.card_training_details import table

SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!])")  # characters with a meaning in Markdown
SIGNS = {
    "loops": "repeat a phrase (decoding loop)",
    "fast": "are much longer than their reference",
    "empty": "are empty",
    "truncated": "were cut off at the token limit",
}

Facts = dict[str, Any]


def card(run: Path, facts: Facts, *, repo: str | None = None, licence: str | None = None) -> str:
    """Return the model card as Markdown.

    Args:
        run: folder of the run; config.yaml, environment.json, drops.jsonl and eval/ are read.
        facts: what facts_of() returned.
        repo: name of the repository on the Hub; None for that of config.yaml.
        licence: of the model; None for that of config.yaml.
    """
    config = _yaml(run / "config.yaml")
    publish = config.get("publish") or {}
    repo, licence = repo or publish.get("repo"), licence or publish.get("licence")
    split = "test" if any((run / "eval").glob("step-*/test/scores.json")) else "dev"
    before, after = (_scores(run, step, split) for step in (0, facts["step"]))
    text: str = _template().render(
        metadata=Markup(yaml_block(facts, after, split=split, repo=repo, licence=licence)),
        title=f"{Path(facts['base_model']).name}, fine-tuned",
        base_model=facts["base_model"],
        training_data=_training_data(facts),
        step=facts["step"],
        updates=facts.get("updates"),
        error="not measured" if facts["error"] is None else percent(facts["error"]),
        split=split,
        rows=_rows(before, after),
        counted=[*normalizers(totals(after, {})), *evaluation_facts(after)] if after else [],
        forgetting=_rows(*(_scores(run, step, "forgetting") for step in (0, facts["step"]))),
        limits=_limits(before, after, config),
        model=Markup(loading_name(repo)),
        corpora=facts.get("corpora"),
        licence=licence,
        drops=_drops(run / "drops.jsonl"),
        leakage=_leakage(run, config.get("data") or {}),
        training=table(run, config, facts),
    )
    return text


def _rows(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """Return a row for each language, for long audio, and for each of several corpora."""
    return [
        {
            "name": total.name,
            "clips": total.saved["clips"],
            "metric": total.saved["metric"],
            "before": saved_percent(total.earlier[key]) if key in total.earlier else "not measured",
            "after": saved_percent(total.saved[key]),
            "orthographic": percent(total.saved[f"{key}_ortho"]["rate"]),
        }
        for total in (totals(after, before) if after else [])
        for key in [total.saved["metric"].lower()]
    ]


def _limits(before: Facts, after: Facts, config: Facts) -> list[str]:
    """Return the limitations that the evaluation found."""
    limits = []
    meters, earlier = after.get("meters") or {}, before.get("meters") or {}
    for name in COUNTS:
        if name in meters:
            was = f" (before: {earlier[name]})" if name in earlier else ""
            limits.append(f"{meters[name]} of {meters['clips']} texts {SIGNS[name]}{was}.")
    if noise := meters.get("noise"):
        was = f" (before: {earlier['noise']['spoken']})" if earlier.get("noise") else ""
        limits.append(
            f"It hallucinates text for {noise['spoken']} of {noise['clips']} clips of silence and "
            f"noise{was}."
        )
    if after.get("true_length"):
        silence = (config.get("model") or {}).get("silence_states", True)
        limits.append(
            "It was scored on clips at their own length. Stock pipelines pad to 30 s: the error "
            f"rate there was not measured{'' if silence else ', and is higher'}."
        )
    return [*limits, "It was evaluated only on the speech named here."]


def _leakage(run: Path, data: Facts) -> str:
    """Return how training and held-out clips were compared, and what was removed."""
    held_out = [data[key] for key in ("dev_split", "test_split") if data.get(key)]
    if not held_out:
        return "no split was held out, so nothing could be compared."
    drops = _drops(run / "drops.jsonl")
    leaks = {reason: n for _, reason, n in drops if reason.endswith(" of dev or test")}
    counts = ", ".join(f"{n:,} × {reason}" for reason, n in leaks.items()) or "none was found"
    if contains_held_out_speakers(data.get("train_split") or ""):
        compared = "the id, the sentence or the speaker"
        note = ""
    else:
        compared = "the id"
        note = " Sentences and speakers were not compared: the corpus's own splits were used."
    return (
        f"clips with {compared} of a clip in {' or '.join(held_out)} were removed from the "
        f"training data: {counts}.{note} The audio itself was not compared."
    )


def _training_data(facts: Facts) -> str:
    hours, clips = f"{facts['hours']:.2f} hours", facts["clips"]
    return f"{hours} of a stream" if clips is None else f"{clips:,} clips ({hours})"


def _drops(path: Path) -> list[tuple[str, str, int]]:
    rows = read_jsonl(path) if path.is_file() else ()
    counts = Counter((row["split"], row["reason"]) for row in rows)
    return [(split, reason, n) for (split, reason), n in sorted(counts.items())]


def _scores(run: Path, step: int, split: str) -> Facts:
    """Read scores.json of an evaluation; {} if there is none."""
    path = run / "eval" / f"step-{step:08d}" / split / "scores.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _yaml(path: Path) -> Facts:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def escape(value: Any) -> Any:
    """Escape a text for Markdown and HTML."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return SPECIAL.sub(r"\\\1", text.replace(">", "&gt;"))


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # the output is Markdown: finalize escapes every text
        finalize=escape,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("card.md.j2")
