"""What a pass may hold: knobs from what fitted, kept beside the runs, and taken by later ones."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from data.config import DataConfig
from data.errors import InputError
from data.features import FRAMES_PER_SECOND
from data.utterance import Shape
from trainer.model import ModelConfig
from trainer.optim import OptimConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """The most rows of one length that fit, and what they took."""

    shape: Shape
    most: int  # rows that were asked for: an update has no more
    gigabytes: float  # at the peak
    took: float  # seconds, forward and backward


def budget_of(found: Sequence[Fitted]) -> dict[str, float | None]:
    """Return the knobs of a budget that every bucket keeps within what fitted.

    Where long rows have room for fewer seconds in all, attention is what they pay for: a row of s
    seconds then counts s + s² / q, with the q that fits best.
    """
    tokens = max(each.shape.rows * each.shape.tokens for each in found)
    full = [each.shape for each in found if each.shape.rows < each.most]
    if not full:  # memory is no limit for this update
        most = max(each.shape.seconds for each in found)
        return {"pass_seconds": most, "pass_quadratic": None, "pass_tokens": tokens}
    quadratic = _quadratic(full)
    room = min(shape.rows * _weight(shape.frames / FRAMES_PER_SECOND, quadratic) for shape in full)
    return {"pass_seconds": room, "pass_quadratic": quadratic, "pass_tokens": tokens}


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
    folder: Path, accelerator: Accelerator, model: ModelConfig, optim: OptimConfig
) -> Path:
    """Return where the budget of a device, a model, what is trained and a precision is kept."""
    device, cuda = accelerator.device, accelerator.device.type == "cuda"
    parts = [torch.cuda.get_device_name(device) if cuda else "cpu", Path(model.name).name]
    parts += [accelerator.mixed_precision, "recomputed" if model.gradient_checkpointing else ""]
    parts += ["frozen" if model.freeze_encoder else "", *model.freeze]
    if model.lora_rank is not None:
        parts += [f"lora{model.lora_rank}", *model.lora_modules]
    parts += ["" if optim.name == "adamw" else optim.name]
    name = re.sub(r"[^\w.]+", "-", "-".join(filter(None, parts)))
    return folder.parent / ".fit" / f"{name}.json"


def fitted(config: DataConfig, path: Path) -> DataConfig:
    """Return the knobs with the budget that was found, unless they name one.

    Raises:
        InputError: the file is damaged.
    """
    if config.pass_seconds is not None or not path.exists():
        return config
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        budget = {key: told[key] for key in ("pass_seconds", "pass_quadratic", "pass_tokens")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: holds no budget that `fit` wrote: remove it, or run fit again"
        ) from error
    return replace(config, **budget)
