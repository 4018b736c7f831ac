"""Warnings about knobs that were set, and that other knobs leave without an effect."""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from data.config import DataConfig
from trainer.model import ModelConfig


def unused_knobs(
    data: DataConfig, model: ModelConfig, architecture: PreTrainedConfig
) -> Iterator[str]:
    """Yield a warning for each knob that has another value than its default and no effect.

    Args:
        data: of a run; fixed_shapes is set.
        model: of the run.
        architecture: config of the model.
    """
    unused: dict[str, str] = {}
    if data.fixed_shapes and data.pad != "packed":
        reason = "with data.fixed_shapes: remove it, or set data.fixed_shapes=false"
        unused |= dict.fromkeys(("buckets", "token_buckets", "max_padding"), reason)
    if data.pad != "bucket":
        reason = f"with data.pad={data.pad}: remove it, or set data.pad=bucket"
        unused |= dict.fromkeys(("max_padding", "trailing_silence"), reason)
    yield from _changed("data", data, DataConfig(), unused)
    if model.lora_rank is None:
        reason = "without model.lora_rank: remove it, or set model.lora_rank"
        keys = ("lora_alpha", "lora_dropout", "lora_modules")
        yield from _changed("model", model, ModelConfig(), dict.fromkeys(keys, reason))
    elif model.base_bits is not None and model.compile:
        yield "model.compile=True has no effect with model.base_bits: remove one of the two"
    if architecture.apply_spec_augment:
        yield (
            "apply_spec_augment in the model's config.json has no effect: use "
            "data.augment.time_masks and data.augment.mel_masks"
        )


def _changed(
    section: str, config: object, default: object, unused: dict[str, str]
) -> Iterator[str]:
    """Yield a warning for each of the unused knobs that differs from its default."""
    for key, reason in unused.items():
        value = getattr(config, key)
        if value != getattr(default, key):
            yield f"{section}.{key}={value} has no effect {reason}"
