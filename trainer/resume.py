"""Going on where a run stopped."""

from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.manifest import Manifest
from trainer.checkpoint import Checkpoints
from trainer.publish import exported_step
from trainer.scoring import Scoring
from trainer.state import TrainState


def shaping(seed: int, config: DataConfig, manifest: Manifest) -> dict[str, Any]:
    """Return all that the plan of updates depends on: not processes, workers or memory."""
    return {
        "seed": seed,
        "data": manifest.fingerprint(),
        "data.update_seconds": config.update_seconds,
        "data.update_tokens": config.update_tokens,
        "data.update_clips": config.update_clips,
        "data.buckets": config.buckets,
    }


def resume(
    saved: Path | None,
    checkpoints: Checkpoints,
    state: TrainState,
    plan: dict[str, Any],
    scoring: Scoring,
) -> None:
    """Load a checkpoint, if there is one, and make the run's folder agree with it.

    A crash between saving and exporting, or a resume from an older checkpoint, leaves another model
    than the best in the run's folder: it is written again from the best checkpoint.

    Raises:
        InputError: the checkpoint is damaged, or the plan has changed.
    """
    if saved is None:
        return
    checkpoints.load(saved, state, plan)
    checkpoints.set_aside(newer_than=state.step)
    if state.best_step and exported_step(scoring.model_folder) != state.best_step:
        checkpoints.load(checkpoints.at(state.best_step), TrainState(), plan)
        scoring.keep_best(state)
        checkpoints.load(saved, state, plan)
