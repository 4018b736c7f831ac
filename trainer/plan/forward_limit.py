"""What a pass may hold: knobs from what fitted, kept beside the runs, and taken by later ones."""

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

# what a Whisper's memory depends on, by the names of transformers' WhisperConfig
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FittingBatch:
    """The most rows of one length that fit, and what they took."""

    shape: Shape
    most: int  # rows that were asked for: an update has no more
    gigabytes: float  # at the peak
    took: float  # seconds, forward and backward


def budget_of(found: Sequence[FittingBatch]) -> dict[str, float | None]:
    """Return the knobs of a budget that every bucket keeps within what fitted.

    Where long rows have room for fewer seconds in all, attention is what they pay for: a row of s
    seconds then counts s + s² / q, with the q that fits best.
    """
    tokens = max(each.shape.rows * each.shape.tokens for each in found)
    full = [each.shape for each in found if each.shape.rows < each.most]
    if not full:  # memory is no limit for this update
        most = max(each.shape.seconds for each in found)
        return {
            "max_seconds_per_forward": most,
            "quadratic_memory_seconds": None,
            "max_tokens_per_forward": tokens,
        }
    quadratic = _quadratic(full)
    room = min(shape.rows * _weight(shape.frames / FRAMES_PER_SECOND, quadratic) for shape in full)
    return {
        "max_seconds_per_forward": room,
        "quadratic_memory_seconds": quadratic,
        "max_tokens_per_forward": tokens,
    }


def _quadratic(full: Sequence[Shape]) -> float | None:
    """Fit 1 / (rows * s) = (1 + s / q) / budget by least squares; None where it does not fall."""
    if len({shape.frames for shape in full}) < 2:
        return None
    seconds = np.array([shape.frames / FRAMES_PER_SECOND for shape in full])
    slope, start = np.polyfit(seconds, [1 / shape.seconds for shape in full], 1)
    return float(start / slope) if slope > 0 and start > 0 else None


def _weight(seconds: float, quadratic: float | None) -> float:
    return seconds if quadratic is None else seconds + seconds**2 / quadratic


def fit_path(
    folder: Path,
    accelerator: Accelerator,
    architecture: PreTrainedConfig,
    model: ModelConfig,
    optim: OptimConfig,
) -> Path:
    """Return where the budget of a device, a model, what is trained and a precision is kept.

    A model is known by its architecture, not by its name: two folders may have the same name, and a
    fine-tuned model takes the memory of the one that it came from.
    """
    device, cuda = accelerator.device, accelerator.device.type == "cuda"
    kept = {key: getattr(architecture, key) for key in ARCHITECTURE}
    kept |= {key: value for key, value in asdict(model).items() if key not in ("name", "revision")}
    told = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]
    parts = [torch.cuda.get_device_name(device) if cuda else "cpu", "whisper"]
    parts += [str(getattr(architecture, key)) for key in ARCHITECTURE[:3]]
    parts += [accelerator.mixed_precision, optim.name, told]
    name = re.sub(r"[^\w.]+", "-", "-".join(parts))
    return folder.parent / ".fit" / f"{name}.json"


def fitted(config: DataConfig, path: Path) -> DataConfig:
    """Return the knobs with the budget that was found, unless they name one.

    Raises:
        InputError: the file is damaged.
    """
    if config.max_seconds_per_forward is not None or not path.exists():
        return config
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        budget = {
            key: told[key]
            for key in (
                "max_seconds_per_forward",
                "quadratic_memory_seconds",
                "max_tokens_per_forward",
            )
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: holds no budget that find-batch-size wrote: remove it, or run that again"
        ) from error
    return replace(config, **budget)
