"""Resume a run: compare its knobs with the checkpoint's, load it, and restore the best model."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from data.config import DataConfig
from data.config_parser import current_names
from data.errors import InputError
from eval.config import EvalConfig
from eval.main_process import run_on_main_process
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CheckpointRotation, read_progress, set_aside
from trainer.distributed.fsdp import FullModel
from trainer.model import ModelConfig
from trainer.nonfinite import MAX_ROLLBACKS
from trainer.optimizer import OptimConfig
from trainer.publish.export import whole_step
from trainer.state import TrainState
from trainer.validation import Validation

# fields of DataConfig that the plan depends on; the corpus is compared by its fingerprint
PLAN_KNOBS = (
    "pad",
    "trailing_silence",
    "timestamp_probability",
    "prompt_probability",
    "max_padding",
    "update_seconds",
    "update_tokens",
    "update_clips",
    "buckets",
    "token_buckets",
    "weights",
    "hours_per_epoch",
)
# fields of DataConfig that the later windows of a stream depend on
STREAM_KNOBS = (
    "streaming",
    "shuffle_buffer",
    "train_split",
    "subset",
    "data_files",
    "revision",
    "text_column",
    "language_column",
    "language",
    "task",
    "scan",
    "min_seconds",
    "max_seconds",
)
# fields of EvalConfig that scores depend on; loop.eval_clips may change, since two models are
# compared on the clips that both transcribed
EVAL_KNOBS = (
    "max_length",
    "tokens_per_second",
    "pad",
    "num_beams",
    "fallback",
    "timestamps",
    "error_unit",
    "normalizer",
)

# removed knobs that older checkpoints hold, with the values at which they had no effect
REMOVED = {"data.repair": 0.0, "data.padded_share": 0.15}

PATH_KNOBS = ("model.name", "data.augment.noise", "data.data_files")  # paths, or names on the Hub
LORA_KNOBS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_modules")


def training_knobs(
    model: ModelConfig, optim: OptimConfig, data: DataConfig, steps: int
) -> dict[str, Any]:
    """Return the knobs that trained weights depend on, by their full names.

    Args:
        model: all of it except gradient_checkpointing, which trades memory for time only.
        optim: all of it.
        data: PLAN_KNOBS, and STREAM_KNOBS of a stream.
        steps: updates to make in total; included if the learning rate depends on them.
    """
    knobs = _knobs(model, "model.", ("freeze", *LORA_KNOBS)) | _knobs(optim, "optim.", ("name",))
    del knobs["model.gradient_checkpointing"]
    data_keys = PLAN_KNOBS + STREAM_KNOBS if data.streaming else PLAN_KNOBS
    knobs |= {f"data.{key}": getattr(data, key) for key in data_keys}
    knobs |= {f"data.augment.{key}": value for key, value in asdict(data.augment).items()}
    knobs = {
        key: list(v) if isinstance(v, tuple) else v for key, v in knobs.items()
    }  # as JSON does
    knobs = _without_folders(knobs)
    return knobs if optim.schedule == "constant" else knobs | {"loop.max_steps": steps}


def _without_folders(knobs: dict[str, Any]) -> dict[str, Any]:
    """Reduce local paths to their last part, because a checkpoint may be published."""
    return knobs | {key: _last_part(knobs[key]) for key in PATH_KNOBS if knobs.get(key)}


def _last_part(value: Any) -> Any:
    if isinstance(value, list):
        return [_last_part(item) for item in value]
    split, equals, path = value.rpartition("=")  # data.data_files may be train=FILES
    local = path.startswith(("/", "~", ".")) or Path(path).exists()
    return f"{split}{equals}{Path(path).name if local else path}"


def evaluation_knobs(config: EvalConfig) -> dict[str, Any]:
    """Return the knobs that the choice of the best model depends on, by their full names."""
    return {f"eval.{key}": getattr(config, key) for key in EVAL_KNOBS}


def _knobs(config: ModelConfig | OptimConfig, prefix: str, new: Collection[str]) -> dict[str, Any]:
    """Return the knobs of a config by their full names.

    Args:
        config: holds them.
        prefix: of their names.
        new: those that older checkpoints lack; left out if they have the default value.
    """
    default = type(config)()
    return {
        f"{prefix}{key}": value
        for key, value in asdict(config).items()
        if key not in new or value != getattr(default, key)
    }


def refuse_changed_knobs(path: Path, now: dict[str, Any], accept: tuple[str, ...]) -> None:
    """Compare the knobs that a resume must not change with those of a checkpoint.

    Older checkpoints hold no knobs of evaluations: these are then not compared. Renamed knobs are
    compared under their current names.

    Args:
        path: of the checkpoint.
        now: the knobs of this start, by their full names.
        accept: names of knobs that may differ.

    Raises:
        InputError: a knob differs and is not in `accept`.
    """
    saved = _without_folders(current_names(read_progress(path)["shape"]))
    for key in sorted(saved.keys() | now.keys()):
        old, new, of_eval = saved.get(key), now.get(key), key.startswith("eval.")
        if old == new or key in accept or (of_eval and key not in saved):
            continue
        if key in REMOVED:
            _refuse_removed(path, key, old)
            continue
        note = f" (the best model so far keeps the score that it got with {old})" if of_eval else ""
        raise InputError(
            f"{path}: {'evaluated' if of_eval else 'trained'} with {key}={old}, now it is {new}: "
            f"set it back, start another run, or accept the change with --accept {key}{note}"
        )


def _refuse_removed(path: Path, key: str, value: Any) -> None:
    if value != REMOVED[key]:
        raise InputError(
            f"{path}: was trained with {key}={value}, a knob that was removed: start another run, "
            f"or continue without it with --accept {key}"
        )


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
