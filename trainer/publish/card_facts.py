"""What a model's card tells that no other file of the run does."""

from pathlib import Path
from typing import Any

from data.lazy_manifest import ManifestColumns
from eval.evaluate import Evaluator
from eval.metrics.scores import short_names
from trainer.metrics.wall_clock import WallClock
from trainer.state import TrainState


def facts_of(
    evaluator: Evaluator, outline: ManifestColumns, clock: WallClock, state: TrainState
) -> dict[str, Any]:
    """Return the facts of the model that is the best so far; no path of this machine is in them.

    Args:
        evaluator: knows the base model, and whether the corpus is a stream.
        outline: of what is trained on.
        clock: of this start.
        state: where training stands.
    """
    streamed = evaluator.data.streaming
    name = evaluator.whisper.name
    return {
        "step": state.best_step or state.step,
        "updates": state.step,
        "base_model": Path(name).name if Path(name).exists() else name,
        "languages": sorted({language for _, language, _ in outline.kinds}),
        "clips": None if streamed else len(outline.seconds),
        "hours": state.audio_seconds / 3600 if streamed else outline.hours,
        "corpora": [] if streamed else _corpora(outline),
        "error": state.best_error,
        "seconds": round(clock.seconds, 1),
        "since": clock.since,
        "shares": {name.partition("/")[2]: share for name, share in clock.shares().items()},
    }


def _corpora(outline: ManifestColumns) -> list[dict[str, Any]]:
    """Return each corpus with its clips and hours; of a folder, the last parts of its name."""
    corpora = outline.corpora()
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
