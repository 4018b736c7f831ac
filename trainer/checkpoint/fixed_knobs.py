"""The knobs that a resumed run must not change: they define training, and the choice of a model."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.config_parser import current_names
from data.errors import InputError
from eval.config import EvalConfig
from trainer.checkpoint.rotation import read_progress
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig

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
    "fixed_shapes",
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

# knobs that older checkpoints lack, with the values that they were trained with
ADDED = {"data.fixed_shapes": False}

# removed knobs that older checkpoints hold, with the values at which they had no effect
REMOVED = {"data.repair": 0.0, "data.padded_share": 0.15}

PATH_KNOBS = ("model.name", "data.augment.noise", "data.data_files")  # paths, or names on the Hub
LORA_KNOBS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_modules", "base_bits")
NEW_MODEL_KNOBS = ("cast_once", "compile", "freeze", *LORA_KNOBS)  # older checkpoints lack them


def training_knobs(
    model: ModelConfig, optim: OptimConfig, data: DataConfig, steps: int
) -> dict[str, Any]:
    """Return the knobs that trained weights depend on, by their full names.

    Args:
        model: all of it except gradient_checkpointing and cuda_graphs, which trade memory for time
            only.
        optim: all of it.
        data: PLAN_KNOBS, and STREAM_KNOBS of a stream.
        steps: updates to make in total; included if the learning rate depends on them.
    """
    knobs = _knobs(model, "model.", NEW_MODEL_KNOBS)
    knobs |= _knobs(optim, "optim.", ("name", "reduce_dtype"))
    del knobs["model.gradient_checkpointing"], knobs["model.cuda_graphs"]
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
        old, new, of_eval = saved.get(key, ADDED.get(key)), now.get(key), key.startswith("eval.")
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
