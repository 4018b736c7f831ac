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
def half_precision_copy(whisper: Whisper, mixed_precision: str) -> Whisper:
    """Return a Whisper with the same weights in half precision, on the same device.

    LoRA adapters are merged in float32 first. The model that is passed in does not change.

    Args:
        whisper: a model in float32.
        mixed_precision: bf16, fp16 or no; no returns the argument itself.
    """
    if mixed_precision not in DTYPES:
        return whisper
    dtype = DTYPES[mixed_precision]
    cast = {id(weight): _cast(weight, dtype) for weight in whisper.model.parameters()}
    for _, layer in adapted_layers(whisper.model):
        base = layer.get_base_layer().weight
        cast[id(base)] = _cast(base + layer.get_delta_weight(ADAPTER), dtype)
    model = deepcopy(whisper.model, cast)  # the memo: weights that are cast already are not copied
    remove_adapters(model)
    return replace(whisper, model=model.eval())


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and module of each layer with a peft adapter."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            yield name, module


def remove_adapters(model: Any) -> None:
    """Replace each layer that has an adapter by its base layer."""
    for name, layer in list(adapted_layers(model)):
        model.set_submodule(name, layer.get_base_layer())


def _cast(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)
