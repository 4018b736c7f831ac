"""How a model was trained, as its card says it: knobs, machine, time, versions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.atomic_files import read_jsonl
from trainer.metrics.recorder import METRICS

# knobs that shaped the weights; paths are no one else's business
SHOWN = {
    "model": ("revision", "freeze_encoder", "dropout", "silence_states"),
    "data": ("pad", "trailing_silence", "timestamp_probability", "prompt_probability"),
}
BUDGET = ("update_seconds", "update_tokens")  # or update_clips in their place

Facts = dict[str, Any]


def table(run: Path, config: Facts, facts: Facts) -> list[tuple[str, Any]]:
    """Return names and values; what is not known is left out, or said not to be measured.

    Args:
        run: its folder.
        config: what its config.yaml holds.
        facts: what facts_of() returns.
    """
    path = run / "environment.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [
        *_knobs(config),
        *_machine(run, known),
        *_time(facts),
        ("energy", "not measured"),
        *_versions(known),
    ]


def _knobs(config: Facts) -> Iterator[tuple[str, str]]:
    data, loop = (config.get(section) or {} for section in ("data", "loop"))
    budget = ("update_clips",) if data.get("update_clips") else BUDGET
    length = ("max_steps",) if loop.get("max_steps") else ("epochs",)
    shown = {"optim": tuple(config.get("optim") or {}), **SHOWN, "loop": length}
    shown["data"] += (*budget, "weights", "hours_per_epoch", "min_seconds", "max_seconds")
    for section, keys in shown.items():
        values = config.get(section) or {}
        for key in keys:
            if values.get(key) not in (None, []):
                yield f"{section}.{key}", _told(values[key])
    augment = data.get("augment") or {}
    for key, value in augment.items():
        if _used(key, augment) and value:
            yield f"data.augment.{key}", _told(value)
    if "seed" in config:
        yield "seed", _told(config["seed"])


def _used(key: str, augment: Facts) -> bool:
    """Tell whether a knob of augmentation did anything; the folder of noises is a path."""
    if key.startswith("noise"):
        return key != "noise" and bool(augment.get("noise"))
    group = {"time_width": "time_masks", "mel_width": "mel_masks"}.get(key, key)
    return bool(augment.get(group))


def _machine(run: Path, known: Facts) -> Iterator[tuple[str, Any]]:
    if known:
        threads, processes = known["threads"], known["processes"]
        each = f"{threads} CPU thread{'s' * (threads > 1)}"
        each += f" in each of {processes} processes" if processes > 1 else ""
        yield "hardware", f"{known['device']}, {each}"
        yield "computed in", {"no": "fp32"}.get(known["precision"], known["precision"])
    path, most = run / METRICS, 0.0
    for row in read_jsonl(path) if path.is_file() else ():
        most = max(most, row.get("memory/peak_gb", 0.0))
    if most:
        yield "peak memory of a process", f"{most:.1f} GB"


def _time(facts: Facts) -> Iterator[tuple[str, str]]:
    if "seconds" not in facts:
        return
    since = facts["since"]
    told = f"{_length(facts['seconds'])} for updates {since:,} to {facts['updates']:,}"
    if since:
        told += ", the last start's; those before are not in it"
    parts = [f"{part.removesuffix('_share')} {x:.0%}" for part, x in facts["shares"].items()]
    yield "time", f"{told} ({', '.join(parts)})"


def _versions(known: Facts) -> Iterator[tuple[str, Any]]:
    if known:
        yield "code", known["commit"] or "no commit known"
        yield "data", f"fingerprint {known['data']}"
        for corpus, commit in known["revisions"].items():
            yield f"revision of {Path(corpus).name}", commit
        told = [f"{name} {found}" for name, found in known["packages"].items() if found]
        yield "versions", ", ".join([f"Python {known['python']}", *told])


def _length(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
