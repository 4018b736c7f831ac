"""What the Hub reads at the head of a model card: it sorts, filters and links by it."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eval.report.figures import totals

TASK = "automatic-speech-recognition"
ISO = {"jw": "jv"}  # Whisper's code → ISO 639's, where they differ
# what the Hub knows by name; every other licence is "other" there, with a name beside
LICENCES = re.compile(
    r"apache-2\.0|mit|cc0-1\.0|cc-by-[234]\.0|cc-by-sa-[34]\.0|cc-by-nc-[234]\.0|cc-by-nd-4\.0"
    r"|cc-by-nc-nd-[34]\.0|cc-by-nc-sa-[234]\.0|a?gpl-3\.0|gpl-2\.0|lgpl-(2\.1|3\.0)|mpl-2\.0"
    r"|bsd(-[23]-clause)?|isc|openrail|unlicense|odbl|pddl|unknown"
)

Facts = dict[str, Any]


def yaml_block(
    facts: Facts, scores: Facts, *, split: str, repo: str | None, licence: str | None
) -> str:
    """Return the metadata as YAML, without the lines of dashes around it.

    Args:
        facts: what facts_of() returns.
        scores: a scores.json; empty where nothing was scored.
        split: that it is of.
        repo: where the model goes on the Hub.
        licence: of the model; None is left out.
    """
    base = facts["base_model"]
    corpora = facts.get("corpora") or []
    results = _results(facts, scores, split)
    data = ModelCardData(
        language=sorted({ISO.get(code, code) for code in facts["languages"] if code}) or None,
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=base if "/" in base else None,  # else it is a folder
        datasets=[corpus["name"] for corpus in corpora if corpus["hub"]] or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=["whisper", "whisper-loop"],
        model_name=place_of(repo).rpartition("/")[2] if repo else f"{Path(base).name}-fine-tuned",
        eval_results=results or None,
        **_licence(licence),
    )
    if not results:
        data.pop("model_name")
    return data.to_yaml()


def place_of(repo: str | None) -> str:
    """Return what a person types to load the model."""
    if repo is None:
        return "THIS_FOLDER"
    return repo if "/" in repo else f"USER/{repo}"


def _licence(licence: str | None) -> dict[str, Any]:
    if licence is None:
        return {}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
    if LICENCES.fullmatch(name):
        return {"license": name}
    return {"license": "other", "license_name": name or "other"}


def _results(facts: Facts, scores: Facts, split: str) -> list[EvalResult]:
    """Return the main figure of each language, in percent, as leaderboards have it."""
    named = facts.get("corpora") or []
    corpus = named[0]["name"] if len(named) == 1 else "the corpora of this card"
    on_hub = len(named) == 1 and named[0]["hub"]
    slug = corpus if on_hub else re.sub(r"\W+", "-", corpus).strip("-").lower()
    return [
        EvalResult(
            task_type=TASK,
            task_name="Speech recognition",
            dataset_type=slug or "speech",
            dataset_name=corpus if total.name in _languages(scores) else f"{corpus}: {total.name}",
            dataset_config=re.sub(r"\W+", "-", total.name),
            dataset_split=split,
            metric_type=total.saved["metric"].lower(),
            metric_name=f"{split} {total.saved['metric']}",
            metric_value=round(100 * total.main.rate, 2),
            metric_args={"normalizer": total.saved["normalizer"], "interval": total.main.interval},
        )
        for total in (totals(scores, {}) if scores else [])
    ]


def _languages(scores: Facts) -> set[str]:
    return set(scores["languages"])
