"""LoRA: add adapters to a frozen Whisper, and merge them into its weights for an export.

peft injects the adapters (the extra lora), which keeps Whisper's classes, module names and
generate(). A checkpoint holds all weights, including frozen ones.
https://arxiv.org/abs/2106.09685
"""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from data.errors import InputError
from eval.half_precision import adapted_layers, merged_weight

LORA, BASE = ".lora_", ".base_layer."  # in names of weights: of an adapter, and of its base layer


def add_adapters(
    model: Any, modules: Sequence[str], *, rank: int, alpha: float, dropout: float
) -> None:
    """Freeze a Whisper, and add adapters to linear layers that were not frozen before.

    Args:
        model: a transformers WhisperForConditionalGeneration.
        modules: ends of the layers' names, or patterns of them.
        rank: of the adapters' matrices.
        alpha: the adapters' output is scaled by alpha / rank.
        dropout: probability, of the adapters' input.

    Raises:
        InputError: peft is not installed, or a name matches no layer that is not frozen.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_targets(model, modules),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # the same initial weights on all processes, at every start
        peft.inject_adapter_in_model(config, model)
    for _, layer in adapted_layers(model):
        layer.cast_input_dtype_enabled = False  # under autocast it would keep a float32 copy


@torch.no_grad()
def merge_adapters(model: Any) -> Any:
    """Return a stock Whisper with the adapters merged in, or the model itself if it has none.

    It is a copy in host memory: merging in place and unmerging would not restore the same bits.
    """
    adapted = dict(adapted_layers(model))
    if not adapted:
        return model
    weights = {
        name.replace(BASE, "."): weight.detach()
        for name, weight in model.state_dict().items()
        if LORA not in name
    }
    for name, layer in adapted.items():
        weights[f"{name}.weight"] = merged_weight(layer)
    with torch.device("meta"):  # without memory and initialization
        stock = type(model)(model.config)
    stock.load_state_dict({n: w.to("cpu", copy=True) for n, w in weights.items()}, assign=True)
    if model.proj_out.weight is model.model.decoder.embed_tokens.weight:
        stock.proj_out.weight = stock.model.decoder.embed_tokens.weight
    stock.generation_config = model.generation_config
    return stock


def _targets(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the full names of the layers that match.

    The LM head is left out: its weights are tied to the embedding, which would not be adapted.
    """
    trainable = [
        name
        for name, module in model.get_submodule("model").named_modules(prefix="model")
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    targets: list[str] = []
    for pattern in patterns:
        matches = [name for name in trainable if fnmatchcase(name, f"*.{pattern}")]
        if not matches:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in trainable})) or "none"
            raise InputError(
                f"model.lora_modules: {pattern!r} matches no linear layer that is not frozen; "
                f"their names end with: {known}"
            )
        targets += matches
    return list(dict.fromkeys(targets))


def _peft() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft may import it
    try:
        import peft
    except ImportError as error:
        raise InputError(
            'model.lora_rank needs peft: pip install "whisper-loop[lora]", or pip install peft'
        ) from error
    return peft
