"""Training details of a model card: hyperparameters, hardware, time and versions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.atomic_files import read_jsonl
from trainer.metrics.recorder import METRICS

# knobs that affect the weights; paths are left out as private
SHOWN = {
    "model": ("revision", "freeze_encoder", "dropout", "silence_states"),
    "data": ("pad", "trailing_silence", "timestamp_probability", "prompt_probability"),
}
BUDGET = ("update_seconds", "update_tokens")  # unless update_clips is set

Facts = dict[str, Any]


def table(run: Path, config: Facts, facts: Facts) -> list[tuple[str, Any]]:
    """Return names and values of the table; unknown values are left out.

    Args:
        run: folder of the run.
        config: content of its config.yaml.
        facts: what facts_of() returned.
    """
    path = run / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [
        *_knobs(config),
        *_hardware(run, environment),
        *_time(facts),
        ("energy", "not measured"),
        *_versions(environment),
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
                yield f"{section}.{key}", _formatted(values[key])
    augment = data.get("augment") or {}
    for key, value in augment.items():
        if _has_effect(key, augment) and value:
            yield f"data.augment.{key}", _formatted(value)
    if "seed" in config:
        yield "seed", _formatted(config["seed"])


def _has_effect(key: str, augment: Facts) -> bool:
    """Return whether a knob of augmentation has an effect; False for the path of the noise."""
    if key.startswith("noise"):
        return key != "noise" and bool(augment.get("noise"))
    group = {"time_width": "time_masks", "mel_width": "mel_masks"}.get(key, key)
    return bool(augment.get(group))


def _hardware(run: Path, environment: Facts) -> Iterator[tuple[str, Any]]:
    if environment:
        threads, processes = environment["threads"], environment["processes"]
        cpu = f"{threads} CPU thread{'s' * (threads > 1)}"
        cpu += f" in each of {processes} processes" if processes > 1 else ""
        yield "hardware", f"{environment['device']}, {cpu}"
        precision = environment["precision"]
        yield "precision", {"no": "fp32"}.get(precision, precision)
    path, peak = run / METRICS, 0.0
    for row in read_jsonl(path) if path.is_file() else ():
        peak = max(peak, row.get("memory/peak_gb", 0.0))
    if peak:
        yield "peak memory of a process", f"{peak:.1f} GB"


def _time(facts: Facts) -> Iterator[tuple[str, str]]:
    if "seconds" not in facts:
        return
    since = facts["since"]
    text = f"{_duration(facts['seconds'])} for updates {since:,} to {facts['updates']:,}"
    if since:
        text += " of the last start; earlier starts are not included"
    parts = [f"{part.removesuffix('_share')} {x:.0%}" for part, x in facts["shares"].items()]
    yield "time", f"{text} ({', '.join(parts)})"


def _versions(environment: Facts) -> Iterator[tuple[str, Any]]:
    if environment:
        yield "code", environment["commit"] or "commit unknown"
        yield "data", f"fingerprint {environment['data']}"
        for corpus, commit in environment["revisions"].items():
            yield f"revision of {Path(corpus).name}", commit
        packages = environment["packages"].items()
        versions = [f"{name} {version}" for name, version in packages if version]
        yield "versions", ", ".join([f"Python {environment['python']}", *versions])


def _duration(seconds: float) -> str:
    """Format a duration: 42 s, 13 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _formatted(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_formatted, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
