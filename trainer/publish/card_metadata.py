"""YAML metadata of a model card, by which the Hub sorts, filters and links models."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from eval.report.figures import totals

TASK = "automatic-speech-recognition"
ISO = {"jw": "jv"}  # Whisper's code → ISO 639 code, where they differ
# licences that the Hub knows; any other is "other", with a license_name
LICENCES = re.compile(
    r"apache-2\.0|mit|cc0-1\.0|cc-by-[234]\.0|cc-by-sa-[34]\.0|cc-by-nc-[234]\.0|cc-by-nd-4\.0"
    r"|cc-by-nc-nd-[34]\.0|cc-by-nc-sa-[234]\.0|a?gpl-3\.0|gpl-2\.0|lgpl-(2\.1|3\.0)|mpl-2\.0"
    r"|bsd(-[23]-clause)?|isc|openrail|unlicense|odbl|pddl|unknown"
)

Facts = dict[str, Any]


def yaml_block(
    facts: Facts, scores: Facts, *, split: str, repo: str | None, licence: str | None
) -> str:
    """Return the metadata as YAML, without the surrounding --- lines.

    Args:
        facts: what facts_of() returns.
        scores: content of a scores.json; empty if nothing was scored.
        split: that was scored.
        repo: name of the repository on the Hub.
        licence: of the model; None to leave it out.
    """
    base = facts["base_model"]
    corpora = facts.get("corpora") or []
    results = _results(facts, scores, split)
    data = ModelCardData(
        language=sorted({ISO.get(code, code) for code in facts["languages"] if code}) or None,
        library_name="transformers",
        pipeline_tag=TASK,
        base_model=base if "/" in base else None,  # without a slash it is a folder
        datasets=[corpus["name"] for corpus in corpora if corpus["hub"]] or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=["whisper", "whisper-loop"],
        model_name=loading_name(repo).rpartition("/")[2]
        if repo
        else f"{Path(base).name}-fine-tuned",
        eval_results=results or None,
        **_licence(licence),
    )
    if not results:
        data.pop("model_name")
    return data.to_yaml()


def loading_name(repo: str | None) -> str:
    """Return the name that users pass to from_pretrained()."""
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
    """Return the main metric of each language, in percent, as leaderboards have it."""
    corpora = facts.get("corpora") or []
    corpus = corpora[0]["name"] if len(corpora) == 1 else "the corpora of this card"
    on_hub = len(corpora) == 1 and corpora[0]["hub"]
    slug = corpus if on_hub else re.sub(r"\W+", "-", corpus).strip("-").lower()
    return [
        EvalResult(
            task_type=TASK,
            task_name="Speech recognition",
            dataset_type=slug or "speech",
            dataset_name=corpus if total.name in scores["languages"] else f"{corpus}: {total.name}",
            dataset_config=re.sub(r"\W+", "-", total.name),
            dataset_split=split,
            metric_type=total.saved["metric"].lower(),
            metric_name=f"{split} {total.saved['metric']}",
            metric_value=round(100 * total.main.rate, 2),
            metric_args={"normalizer": total.saved["normalizer"], "interval": total.main.interval},
        )
        for total in (totals(scores, {}) if scores else [])
    ]
