"""Copy a model to half precision for evaluation, so that each weight is cast once.

Under autocast every decoding step would cast every weight again: autocast caches no weights in
torch.inference_mode(), and never those that require no gradient (pytorch PR 165068).
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from eval.whisper import Whisper

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by Accelerate's names
ADAPTER = "default"  # peft's name of a single adapter


@torch.no_grad()
def half_precision_copy(
    whisper: Whisper, mixed_precision: str, device: torch.device | None = None
) -> Whisper:
    """Return a Whisper with the same weights in half precision.

    LoRA adapters are merged in float32 first. The model that is passed in does not change.

    Args:
        whisper: a model in float32. Training may hold its frozen weights in host memory.
        mixed_precision: bf16, fp16 or no; no returns the argument itself.
        device: of the copy; None for that of each weight.
    """
    if mixed_precision not in DTYPES:
        return whisper
    dtype = DTYPES[mixed_precision]
    cast = {id(weight): _cast(weight, dtype, device) for weight in whisper.model.parameters()}
    for _, layer in adapted_layers(whisper.model):
        cast[id(layer.get_base_layer().weight)] = _cast(merged_weight(layer), dtype, device)
    model = deepcopy(whisper.model, cast)  # the memo: weights that are cast already are not copied
    remove_adapters(model)
    return replace(whisper, model=model.eval())


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and module of each layer with a peft adapter."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            yield name, module


def merged_weight(layer: Any) -> Tensor:
    """Return a layer's weight with its adapter added, in float32 on the adapter's device."""
    delta: Tensor = layer.get_delta_weight(ADAPTER)
    return layer.get_base_layer().weight.to(delta.device) + delta


def remove_adapters(model: Any) -> None:
    """Replace each layer that has an adapter by its base layer."""
    for name, layer in list(adapted_layers(model)):
        model.set_submodule(name, layer.get_base_layer())


def _cast(weight: Tensor, dtype: torch.dtype, device: torch.device | None) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(device, dtype), requires_grad=False)
