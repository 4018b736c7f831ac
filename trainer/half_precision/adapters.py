"""LoRA adapters beside the weights of HalfWeights: of one kind, they lie in two tensors.

Layers or projections of a kind that have no adapter take zeros there, which add nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from eval.half_precision import ADAPTER, adapted_layers
from trainer.half_precision.kinds import ALL, Index, Kind, Part

DOWN, UP = "lora_A", "lora_B"  # peft's names of the two matrices


class AdapterConfig(NamedTuple):
    """What all adapters of a model share."""

    rank: int
    scale: float  # of the adapters' output
    dropout: float  # probability, of their input


def adapter_config(whisper: Any) -> AdapterConfig | None:
    """Return what the adapters of a model share; None if it has none."""
    for _, layer in adapted_layers(whisper):
        dropout = getattr(layer.lora_dropout[ADAPTER], "p", 0.0)  # Identity without dropout
        return AdapterConfig(layer.r[ADAPTER], layer.scaling[ADAPTER], dropout)
    return None


def adapter_kinds(whisper: Any, kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Yield the kinds of the adapters' matrices.

    Args:
        whisper: a model after trainer.lora.add_adapters().
        kinds: of its other weights.

    Yields:
        For weights (layers, projections, heads, channels, d_model): A (layers, projections, rank,
        d_model) and B (layers, projections, heads, channels, rank). For other weights (layers,
        outputs, …): A (layers, 1, rank, …) and B (layers, 1, outputs, rank).
    """
    layers = {id(layer.get_base_layer().weight): layer for _, layer in adapted_layers(whisper)}
    for kind in kinds:
        adapted = [
            (part, layers[id(p)]) for part in kind.parts if id(p := part.parameter) in layers
        ]
        if not adapted:
            continue
        count, *rest = kind.shape
        shape = (count, *rest) if kind.outputs == 3 else (count, 1, *rest)
        last = max(3, 1 + kind.outputs)  # index after the last dimension of the output
        parts = [_parts(part, layer, kind.outputs) for part, layer in adapted]
        rank, name = parts[0][0].shape[0], kind.name.removesuffix("weight")
        yield Kind(f"{name}{DOWN}", (*shape[:2], rank, *shape[last:]), [down for down, _ in parts])
        yield Kind(f"{name}{UP}", (*shape[:last], rank), [up for _, up in parts])


def _parts(part: Part, layer: Any, outputs: int) -> tuple[Part, Part]:
    """Return the places of an adapter's two matrices, from the place of its base layer's weight."""
    down, up = (getattr(layer, name)[ADAPTER].weight for name in (DOWN, UP))
    rank = len(down)
    if outputs == 3:  # of the part: heads, head_dim, d_model
        shape = (*part.shape[:2], rank)
        return Part(down, part.index[:2], (rank, part.shape[2])), Part(up, part.index, shape)
    place: Index = (part.index[0], 0)
    inputs = part.index[2:]
    return (
        Part(down, (*place, ALL, *inputs), (rank, *part.shape[1:])),
        Part(up, place, (part.shape[0], rank)),
    )


def adapter_keys_values(states: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return the adapters' part of keys and values of silence states, without the scale.

    Args:
        states: after dropout, (layers, n, d_model); (1, n, d_model) if the layers share them.
        down: (layers, 2, rank, d_model).
        up: (layers, 2, heads, channels, rank).

    Returns:
        Shape: (layers, 2, n, heads, channels).
    """
    product = states[:, None] @ down.mT @ up.flatten(2, 3).mT
    return product.unflatten(-1, up.shape[2:4])


def add_adapter_outputs(
    product: Tensor, inputs: Tensor, down: Tensor, up: Tensor, config: AdapterConfig
) -> Tensor:
    """Add the output of groups of adapters to that of their base layers.

    Args:
        product: of the base layers, (batch, n, groups * outputs).
        inputs: of all of them, after dropout, (batch, n, inputs).
        down: (groups, rank, inputs), in any shape of that size.
        up: (groups, outputs, rank), in any shape of that size.
        config: of the adapters.

    Returns:
        The sum. Shape: (batch, n, groups * outputs).
    """
    states = F.linear(inputs, down.reshape(-1, inputs.shape[-1])).unflatten(-1, (-1, config.rank))
    up = up.reshape(states.shape[-2], -1, config.rank)
    added = torch.einsum("bngr,gor->bngo", states, up)
    return torch.add(product, added.flatten(-2), alpha=config.scale)
