"""LoRA: small matrices beside frozen weights, which join them where the model leaves the run.

peft puts them in (the extra lora). The Whisper around them stays what it is: its classes, its names
of modules and generate(). A checkpoint holds all weights, frozen ones too.
https://arxiv.org/abs/2106.09685
"""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from data.errors import InputError
from eval.half_precision import ADAPTER, adapted_layers

OWN, BASE = ".lora_", ".base_layer."  # in the names of weights: an adapter's, and what it adapts


def add_adapters(
    model: Any, modules: Sequence[str], *, rank: int, alpha: float, dropout: float
) -> None:
    """Freeze a Whisper, and put adapters beside its linear layers that are not frozen already.

    Args:
        model: a transformers WhisperForConditionalGeneration.
        modules: ends of the layers' names, or patterns of them.
        rank: of the small matrices.
        alpha: what they say weighs alpha / rank.
        dropout: of what they hear.

    Raises:
        InputError: peft is not installed, or a name fits no layer that may change.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_targets(model, modules),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # all processes draw the same, at every start
        peft.inject_adapter_in_model(config, model)
    for _, layer in adapted_layers(model):
        layer.cast_input_dtype_enabled = False  # under autocast it would keep a copy in float32


@torch.no_grad()
def merged(model: Any) -> Any:
    """Return a stock Whisper that says the same; the model itself where it has no adapters.

    It is another one, in host memory: adding and taking off again would not give the same bits.
    """
    adapted = dict(adapted_layers(model))
    if not adapted:
        return model
    weights = {
        name.replace(BASE, "."): weight.detach()
        for name, weight in model.state_dict().items()
        if OWN not in name
    }
    for name, layer in adapted.items():
        weights[f"{name}.weight"] = layer.get_base_layer().weight + layer.get_delta_weight(ADAPTER)
    with torch.device("meta"):  # no memory, and no time to draw weights
        stock = type(model)(model.config)
    stock.load_state_dict({n: w.to("cpu", copy=True) for n, w in weights.items()}, assign=True)
    if model.proj_out.weight is model.model.decoder.embed_tokens.weight:
        stock.proj_out.weight = stock.model.decoder.embed_tokens.weight
    stock.generation_config = model.generation_config
    return stock


def _targets(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return the full names of the layers.

    The LM head is left out: its weights are the embedding's too, which would not follow.
    """
    free = [
        name
        for name, module in model.get_submodule("model").named_modules(prefix="model")
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    found: list[str] = []
    for pattern in patterns:
        fitting = [name for name in free if fnmatchcase(name, f"*.{pattern}")]
        if not fitting:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in free})) or "none"
            raise InputError(
                f"model.lora_modules: {pattern!r} fits no linear layer that is not frozen; their "
                f"names end with: {known}"
            )
        found += fitting
    return list(dict.fromkeys(found))


def _peft() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft may import it
    try:
        import peft
    except ImportError as error:
        raise InputError(
            'model.lora_rank needs peft: pip install "whisper-loop[lora]", or pip install peft'
        ) from error
    return peft
