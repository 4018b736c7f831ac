"""The model card: where the weights come from, how well they do, and what they cannot do.

It is made of the files in a run's folder. What they do not say is said not to be known.
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
from eval.metrics.confidence import percent, saved_percent
from eval.probes.hallucination import COUNTS
from eval.report.figures import facts as circumstances
from eval.report.figures import normalizers, totals
from trainer.publish.card_metadata import place_of, yaml_block
from trainer.publish.card_training_details import table

SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!])")  # means something in Markdown
SIGNS = {
    "loops": "repeat themselves",
    "fast": "say more than was said",
    "empty": "say nothing",
    "truncated": "find no end",
}

Facts = dict[str, Any]


def card(run: Path, facts: Facts, *, repo: str | None = None, licence: str | None = None) -> str:
    """Return the model card.

    Args:
        run: its folder: config.yaml, environment.json, drops.jsonl and eval/ are read from it.
        facts: what facts_of() returns.
        repo: where the model goes on the Hub; None: as config.yaml says.
        licence: of the model; None: as config.yaml says.
    """
    config = _yaml(run / "config.yaml")
    asked = config.get("publish") or {}
    repo, licence = repo or asked.get("repo"), licence or asked.get("licence")
    split = "test" if any((run / "eval").glob("step-*/test/scores.json")) else "dev"
    before, after = (_scores(run, step, split) for step in (0, facts["step"]))
    text: str = _template().render(
        metadata=Markup(yaml_block(facts, after, split=split, repo=repo, licence=licence)),
        title=f"{Path(facts['base_model']).name}, fine-tuned",
        base_model=facts["base_model"],
        heard=_heard(facts),
        step=facts["step"],
        updates=facts.get("updates"),
        error="not measured" if facts["error"] is None else percent(facts["error"]),
        split=split,
        rows=_rows(before, after),
        counted=[*normalizers(totals(after, {})), *circumstances(after)] if after else [],
        forgotten=_rows(*(_scores(run, step, "forgetting") for step in (0, facts["step"]))),
        limits=_limits(before, after, config),
        place=Markup(place_of(repo)),
        corpora=facts.get("corpora"),
        licence=licence,
        drops=_drops(run / "drops.jsonl"),
        leakage=_leakage(run, config.get("data") or {}),
        training=table(run, config, facts),
    )
    return text


def _rows(before: Facts, after: Facts) -> list[dict[str, Any]]:
    """Return a row for each language, for long audio, and for each corpus where there are more."""
    return [
        {
            "name": total.name,
            "clips": total.saved["clips"],
            "metric": total.saved["metric"],
            "before": saved_percent(total.was[key]) if key in total.was else "not measured",
            "after": saved_percent(total.saved[key]),
            "written": percent(total.saved[f"{key}_ortho"]["rate"]),
        }
        for total in (totals(after, before) if after else [])
        for key in [total.saved["metric"].lower()]
    ]


def _limits(before: Facts, after: Facts, config: Facts) -> list[str]:
    """Return what the evaluation found to be wrong with it, and where it was never tried."""
    found = []
    meters, earlier = after.get("meters") or {}, before.get("meters") or {}
    for name in COUNTS:
        if name in meters:
            was = f" (before: {earlier[name]})" if name in earlier else ""
            told = f"{meters[name]} of {meters['clips']} texts {SIGNS[name]}{was}."
            found.append(told)
    if noise := meters.get("noise"):
        was = f" (before: {earlier['noise']['spoken']})" if earlier.get("noise") else ""
        found.append(
            f"It says something to {noise['spoken']} of {noise['clips']} clips of silence and "
            f"noise, in which nobody speaks{was}."
        )
    if after.get("true_length"):
        silence = (config.get("model") or {}).get("silence_states", True)
        found.append(
            "Its errors are of clips heard at their own length. Stock pipelines pad to 30 s: "
            f"errors there are not counted here{'' if silence else ', and are more'}."
        )
    return [*found, "It was tried on the speech named here, and on no other."]


def _leakage(run: Path, data: Facts) -> str:
    """Return what was compared between training and held-out speech, and what was found."""
    held = [data[key] for key in ("dev_split", "test_split") if data.get(key)]
    if not held:
        return "nothing was held out, so nothing could be compared."
    drops = _drops(run / "drops.jsonl")
    found = {reason: n for _, reason, n in drops if reason.endswith(" of dev or test")}
    told = ", ".join(f"{n:,} × {reason}" for reason, n in found.items()) or "none was found"
    if contains_held_out_speakers(data.get("train_split") or ""):
        what = "clips with the id, the sentence or the speaker of one"
        rest = ""
    else:
        what = "clips with the id of one"
        rest = " Sentences and speakers were not compared: the corpus's own division stands."
    return (
        f"{what} in {' or '.join(held)} were taken out of what was trained on: {told}.{rest} "
        "The sound itself was not compared."
    )


def _heard(facts: Facts) -> str:
    hours, clips = f"{facts['hours']:.2f} hours", facts["clips"]
    return f"{hours} of a stream" if clips is None else f"{clips:,} clips ({hours})"


def _drops(path: Path) -> list[tuple[str, str, int]]:
    rows = read_jsonl(path) if path.is_file() else ()
    counts = Counter((row["split"], row["reason"]) for row in rows)
    return [(split, reason, n) for (split, reason), n in sorted(counts.items())]


def _scores(run: Path, step: int, split: str) -> Facts:
    """Return what an evaluation found, or nothing where there was none."""
    path = run / "eval" / f"step-{step:08d}" / split / "scores.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _yaml(path: Path) -> Facts:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def escape(value: Any) -> Any:
    """Return a text that Markdown shows as it is, whatever is in it."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return SPECIAL.sub(r"\\\1", text.replace(">", "&gt;"))


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # it is Markdown: finalize escapes every text
        finalize=escape,
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("card.md.j2")
