"""Limits of a forward pass that find-batch-size found, and the file that keeps them."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig

from data.batch import Shape
from data.config import DataConfig
from data.errors import InputError
from data.log_mel import FRAMES_PER_SECOND
from trainer.model import ModelConfig
from trainer.optimizer import OptimConfig

# fields of transformers' WhisperConfig that memory depends on
ARCHITECTURE = (
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "vocab_size",
    "num_mel_bins",
    "activation_function",
    "dropout",
    "attention_dropout",
    "activation_dropout",
)

# knobs of data that the file sets
BUDGET = ("max_seconds_per_forward", "quadratic_memory_seconds", "max_tokens_per_forward")


@dataclass(frozen=True, kw_only=True, slots=True)
class FittingBatch:
    """The largest number of rows of one length that fit in memory."""

    shape: Shape
    most: int  # rows that were tried at most: those of an update
    gigabytes: float  # peak memory
    took: float  # seconds of forward and backward


def pass_budget(batches: Sequence[FittingBatch]) -> dict[str, float | None]:
    """Return the knobs of BUDGET that fit every bucket.

    If fewer seconds of long rows fit than of short ones, because attention is quadratic, a row of s
    seconds counts s + s² / q, with the q of the best fit.
    """
    tokens = max(batch.shape.rows * batch.shape.tokens for batch in batches)
    limited = [batch.shape for batch in batches if batch.shape.rows < batch.most]
    quadratic = None
    if limited:
        quadratic = _fit_quadratic(limited)
        seconds = min(s.rows * _weight(s.frames / FRAMES_PER_SECOND, quadratic) for s in limited)
    else:  # memory does not limit this update
        seconds = max(batch.shape.seconds for batch in batches)
    return {
        "max_seconds_per_forward": seconds,
        "quadratic_memory_seconds": quadratic,
        "max_tokens_per_forward": tokens,
    }


def _fit_quadratic(shapes: Sequence[Shape]) -> float | None:
    """Fit q of 1 / (rows * s) = (1 + s / q) / budget by least squares; None if not quadratic."""
    if len({shape.frames for shape in shapes}) < 2:
        return None
    seconds = np.array([shape.frames / FRAMES_PER_SECOND for shape in shapes])
    slope, intercept = np.polyfit(seconds, [1 / shape.seconds for shape in shapes], 1)
    return float(intercept / slope) if slope > 0 and intercept > 0 else None


def _weight(seconds: float, quadratic: float | None) -> float:
    return seconds if quadratic is None else seconds + seconds**2 / quadratic


def fit_path(
    folder: Path,
    accelerator: Accelerator,
    architecture: PreTrainedConfig,
    model: ModelConfig,
    optim: OptimConfig,
) -> Path:
    """Return the file of the budget for a device, model, trained parameters and precision.

    A model is identified by its architecture, not by its name: two folders may have the same name,
    and a fine-tuned model needs the memory of its base model.

    Args:
        folder: of a run; the file is beside it.
        accelerator: gives device and precision.
        architecture: config of the model.
        model: which parameters are trained.
        optim: gives the optimizer's name.
    """
    device, cuda = accelerator.device, accelerator.device.type == "cuda"
    values = {key: getattr(architecture, key) for key in ARCHITECTURE}
    values |= {k: value for k, value in asdict(model).items() if k not in ("name", "revision")}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
    parts = [torch.cuda.get_device_name(device) if cuda else "cpu", "whisper"]
    parts += [str(getattr(architecture, key)) for key in ARCHITECTURE[:3]]
    parts += [accelerator.mixed_precision, optim.name, digest]
    name = re.sub(r"[^\w.]+", "-", "-".join(parts))
    return folder.parent / ".fit" / f"{name}.json"


def with_fitted_budget(config: DataConfig, path: Path) -> DataConfig:
    """Return the config with a file's budget, unless max_seconds_per_forward is set.

    Args:
        config: of a run.
        path: what fit_path() returned; the file may be missing.

    Raises:
        InputError: the file is damaged.
    """
    if config.max_seconds_per_forward is not None or not path.exists():
        return config
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        budget = {key: saved[key] for key in BUDGET}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a budget written by find-batch-size: remove it, or run that again"
        ) from error
    return replace(config, **budget)
