"""Collect the facts of a model card that no other file of the run holds."""

from pathlib import Path
from typing import Any

from data.lazy_manifest import ManifestColumns
from eval.evaluate import Evaluator
from eval.metrics.scores import short_names
from trainer.metrics.wall_clock import WallClock
from trainer.state import TrainState


def facts_of(
    evaluator: Evaluator, columns: ManifestColumns, clock: WallClock, state: TrainState
) -> dict[str, Any]:
    """Return the facts of the best model so far, without any path of this machine.

    Args:
        evaluator: holds the base model's name and the data config.
        columns: of the training manifest.
        clock: of this start.
        state: of training.
    """
    streamed = evaluator.data.streaming
    name = evaluator.whisper.name
    return {
        "step": state.best_step or state.step,
        "updates": state.step,
        "base_model": Path(name).name if Path(name).exists() else name,
        "languages": sorted({language for _, language, _ in columns.kinds}),
        "clips": None if streamed else len(columns.seconds),
        "hours": state.audio_seconds / 3600 if streamed else columns.hours,
        "corpora": [] if streamed else _corpora(columns),
        "error": state.best_error,
        "seconds": round(clock.seconds, 1),
        "since": clock.start_step,
        "shares": {name.partition("/")[2]: share for name, share in clock.shares().items()},
    }


def _corpora(columns: ManifestColumns) -> list[dict[str, Any]]:
    """Return name, clips and hours of each corpus; of a folder, only the last parts of its path."""
    corpora = columns.corpora()
    local = [name for name in corpora if Path(name).exists()]
    short = dict(zip(local, short_names(local), strict=True)) if local else {}
    return [
        {
            "name": short.get(name, name),
            "hub": name not in short,
            "clips": clips,
            "hours": seconds / 3600,
        }
        for name, (clips, seconds) in corpora.items()
    ]
