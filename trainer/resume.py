"""Going on where a run stopped."""

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

# those of the data's knobs that training depends on: not workers, memory or prefetching, and not
# the corpus, whose frozen manifest has a fingerprint
PLAN = (
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
# and those that a stream's later windows depend on, which no manifest holds
STREAM = (
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

# and of the evaluations' knobs those that change figures, which models are chosen by; another
# loop.eval_clips is no such thing: the clips that two models both heard are compared
FIGURES = (
    "max_length",
    "tokens_per_second",
    "pad",
    "num_beams",
    "fallback",
    "timestamps",
    "error_unit",
    "normalizer",
)

# knobs that were removed, with the values at which they did nothing: checkpoints may name them
OFF = {"data.repair": 0.0, "data.padded_share": 0.15}

PATHS = ("model.name", "data.augment.noise", "data.data_files")  # or names on the Hub
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_modules")


def shaping(model: ModelConfig, optim: OptimConfig, data: DataConfig, steps: int) -> dict[str, Any]:
    """Return the knobs that a run's weights depend on: what a resume compares.

    Args:
        model: which Whisper; gradient checkpointing trades memory for time alone.
        optim: how weights move.
        data: how the plan is drawn.
        steps: updates to make in all; they matter only where the learning rate asks.
    """
    knobs = _set(model, "model.", ("freeze", *LORA)) | _set(optim, "optim.", ("name",))
    del knobs["model.gradient_checkpointing"]
    asked = PLAN + STREAM if data.streaming else PLAN
    knobs |= {f"data.{key}": getattr(data, key) for key in asked}
    knobs |= {f"data.augment.{key}": value for key, value in asdict(data.augment).items()}
    knobs = {key: list(v) if isinstance(v, tuple) else v for key, v in knobs.items()}  # as in JSON
    knobs = _without_folders(knobs)
    return knobs if optim.schedule == "constant" else knobs | {"loop.max_steps": steps}


def _without_folders(knobs: dict[str, Any]) -> dict[str, Any]:
    """Return knobs with the last part alone of local paths: a checkpoint may be published."""
    return knobs | {key: _last_part(knobs[key]) for key in PATHS if knobs.get(key)}


def _last_part(value: Any) -> Any:
    if isinstance(value, list):
        return [_last_part(each) for each in value]
    split, equals, place = value.rpartition("=")  # data.data_files may say train=FILES
    local = place.startswith(("/", "~", ".")) or Path(place).exists()
    return f"{split}{equals}{Path(place).name if local else place}"


def evaluation_knobs(config: EvalConfig) -> dict[str, Any]:
    """Return the knobs that figures depend on: models are not chosen between unlike ones."""
    return {f"eval.{key}": getattr(config, key) for key in FIGURES}


def _set(config: ModelConfig | OptimConfig, prefix: str, later: Collection[str]) -> dict[str, Any]:
    """Return knobs by their full names, without those that are as in checkpoints from before them.

    Args:
        config: holds them.
        prefix: of their names.
        later: those that came later.
    """
    default = type(config)()
    return {
        f"{prefix}{key}": value
        for key, value in asdict(config).items()
        if key not in later or value != getattr(default, key)
    }


def refuse_change(path: Path, now: dict[str, Any], accept: tuple[str, ...]) -> None:
    """Compare the knobs that shape training, and its choice of a model, with a checkpoint's.

    Checkpoints from before the evaluations' knobs were kept say nothing of them, and go on. Knobs
    that have another name now are compared by it.

    Raises:
        InputError: one differs, and its change was not accepted.
    """
    saved = _without_folders(current_names(read_progress(path)["shape"]))
    for key in sorted(saved.keys() | now.keys()):
        old, new, judges = saved.get(key), now.get(key), key.startswith("eval.")
        if old == new or key in accept or (judges and key not in saved):
            continue
        if key in OFF:
            _refuse_removed(path, key, old)
            continue
        kept = f" (the best model so far keeps the figure that it got with {old})" if judges else ""
        raise InputError(
            f"{path}: was {'judged' if judges else 'trained'} with {key}={old}, now it is {new}: "
            f"set it back, start another run, or accept the change with --accept {key}{kept}"
        )


def _refuse_removed(path: Path, key: str, value: Any) -> None:
    if value != OFF[key]:
        raise InputError(
            f"{path}: was trained with {key}={value}, a knob that was removed: start another run, "
            f"or go on without it with --accept {key}"
        )


def resume(
    saved: Path,
    checkpoints: Checkpoints,
    state: TrainState,
    validation: Validation,
    full_model: FullModel,
) -> None:
    """Load a checkpoint, and make the run's folder agree with it.

    A crash between saving and exporting, or a resume from an older checkpoint, leaves another model
    than the best in the run's folder: it is written again from the best checkpoint. Where that is
    gone, a warning says so and the best is chosen anew. What the run made of a future that is given
    up is set aside: checkpoints and evaluations.

    Args:
        saved: the checkpoint, verified.
        checkpoints: the run's.
        state: takes over the saved progress.
        validation: exports the best model.
        full_model: is the model that is exported.
    """
    target = TrainState()
    target.load_state_dict(read_progress(saved)["state"])
    best = run_on_main_process(
        checkpoints.accelerator, lambda: _find_best(checkpoints.rotation, validation, target)
    )
    run_on_main_process(
        checkpoints.accelerator, lambda: _set_aside(checkpoints.rotation, validation, target, best)
    )
    if best.path is not None:
        export_best(best.path, checkpoints, target, validation, full_model)
    checkpoints.load(saved, state)
    if state.rollbacks == MAX_ROLLBACKS:  # the run ended with them: they are counted anew
        state.failed = []
    if best.lost:
        checkpoints.print_fn(
            f"WARNING: the best model so far, of update {target.best_step}, is gone ({best.lost}): "
            "the best is chosen anew from the next evaluation on; model/, if there was one, is "
            "renamed replaced-…"
        )
        state.reset_best()


def retry_best_export(
    checkpoints: Checkpoints, state: TrainState, validation: Validation, full_model: FullModel
) -> None:
    """Export the best model, at the end, where a full disk refused it when it was found."""
    checkpoints.settle()  # the state of the last one may be on its way
    best = run_on_main_process(
        checkpoints.accelerator, lambda: _find_best(checkpoints.rotation, validation, state)
    )
    if best.path is not None:
        export_best(best.path, checkpoints, state, validation, full_model)


def export_best(
    path: Path,
    checkpoints: Checkpoints,
    state: TrainState,
    validation: Validation,
    full_model: FullModel,
) -> None:
    """Write the run's model from the checkpoint of the best one, whose weights stay in hand."""
    checkpoints.load(path, TrainState())
    full_model.refresh()
    validation.keep_best(state)


class BestCheckpoint(NamedTuple):
    """Where the best model is, if the run's model is another one."""

    path: Path | None = None  # its checkpoint, verified
    lost: str = ""  # why there is none


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
    """Rename what is of a future that was given up, and a model that is no longer the best."""
    rotation.set_aside(newer_than=state.step)
    validation.set_aside(newer_than=state.step)
    if best.lost and validation.model_folder.exists():
        set_aside(validation.model_folder)
