"""Resume a run: load a checkpoint, and make the run's folder and best model agree with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from data.errors import InputError
from data.manifest import Manifest
from eval.main_process import run_on_main_process
from trainer.checkpoint.fixed_knobs import evaluation_knobs, training_knobs
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CheckpointRotation, read_progress, set_aside
from trainer.config import Config
from trainer.distributed.fsdp import FullModel
from trainer.nonfinite import MAX_ROLLBACKS
from trainer.publish.export import whole_step
from trainer.state import TrainState
from trainer.validation import Validation

C = TypeVar("C", bound=Config)


def with_fixed_shapes(config: C, device: torch.device, saved: Path | None = None) -> C:
    """Return the config with data.fixed_shapes set: as in the checkpoint, or by the device.

    Args:
        config: of a run. A value that it has already stays.
        device: that trains. Each new shape of a forward pass costs time on a GPU.
        saved: path of the checkpoint that the run is resumed from. Older ones lack the knob.
    """
    if config.data.fixed_shapes is not None:
        return config
    on = device.type == "cuda"
    if saved is not None:
        on = read_progress(saved)["shape"].get("data.fixed_shapes", False)
    return replace(config, data=replace(config.data, fixed_shapes=on))


def fixed_knobs(config: Config, manifest: Manifest, steps: int) -> dict[str, Any]:
    """Return the knobs that a resume must not change: of training, and of the choice of a model."""
    return {
        "seed": config.seed,
        "precision": config.precision,
        "data": manifest.fingerprint(),
        **training_knobs(config.model, config.optim, config.data, steps),
        **evaluation_knobs(config.eval),
    }


def resume(
    saved: Path,
    checkpoints: Checkpoints,
    state: TrainState,
    validation: Validation,
    full_model: FullModel,
) -> None:
    """Load a checkpoint, and make the run's folder agree with it.

    After a crash between saving and exporting, or when resuming from an older checkpoint, model/ is
    not the best model of the checkpoint: it is exported again. Checkpoints and evaluations of later
    updates are renamed.

    Args:
        saved: path of the checkpoint, verified.
        checkpoints: of the run.
        state: receives the saved progress.
        validation: exports the best model.
        full_model: the model that is exported.
    """
    target, rotation = TrainState(), checkpoints.rotation
    target.load_state_dict(read_progress(saved)["state"])
    best = run_on_main_process(
        checkpoints.accelerator, lambda: _find_best(rotation, validation, target)
    )
    run_on_main_process(
        checkpoints.accelerator, lambda: _set_aside(rotation, validation, target, best)
    )
    if best.path is not None:
        export_from_checkpoint(best.path, checkpoints, target, validation, full_model)
    checkpoints.load(saved, state)
    if state.rollbacks == MAX_ROLLBACKS:  # the run ended because of them: count failures from 0
        state.failed = []
    if best.lost:
        checkpoints.print_fn(
            f"WARNING: the best model so far, of update {target.best_step}, is lost ({best.lost}): "
            "the next evaluation chooses a new best; model/, if it exists, is renamed replaced-…"
        )
        state.reset_best()


def retry_best_export(
    checkpoints: Checkpoints, state: TrainState, validation: Validation, full_model: FullModel
) -> None:
    """Export the best model at the end, if a full disk prevented that after its evaluation."""
    checkpoints.wait_for_write()  # its state may still be being written
    best = run_on_main_process(
        checkpoints.accelerator, lambda: _find_best(checkpoints.rotation, validation, state)
    )
    if best.path is not None:
        export_from_checkpoint(best.path, checkpoints, state, validation, full_model)


def export_from_checkpoint(
    path: Path,
    checkpoints: Checkpoints,
    state: TrainState,
    validation: Validation,
    full_model: FullModel,
) -> None:
    """Load the checkpoint of the best model, and export it."""
    checkpoints.load(path, TrainState())
    full_model.refresh()
    validation.export_best(state)


class BestCheckpoint(NamedTuple):
    """The checkpoint of the best model, if model/ is another model."""

    path: Path | None = None  # verified
    lost: str = ""  # why there is no checkpoint


def _find_best(
    rotation: CheckpointRotation, validation: Validation, state: TrainState
) -> BestCheckpoint:
    if not state.best_step or whole_step(validation.model_folder) == state.best_step:
        return BestCheckpoint()
    try:
        return BestCheckpoint(path=rotation.at(state.best_step))
    except InputError as error:
        return BestCheckpoint(lost=str(error))


def _set_aside(
    rotation: CheckpointRotation, validation: Validation, state: TrainState, best: BestCheckpoint
) -> None:
    """Rename checkpoints and evaluations of later updates, and a model that is not the best."""
    rotation.set_aside(newer_than=state.step)
    validation.set_aside(newer_than=state.step)
    if best.lost and validation.model_folder.exists():
        set_aside(validation.model_folder)
