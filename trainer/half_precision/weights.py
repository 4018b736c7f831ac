"""HalfWeights: a Whisper's weights in half precision, cast once an update; gradients in float32.

Autocast casts every weight in every pass, and its gradient back: hundreds of operations a pass,
which a GPU takes longer to start than to compute. Here the weights of one kind lie in one tensor
for all layers. An update casts all of them in one operation, and each pass adds the gradient of a
kind to float32 in one operation. The float32 weights stay those of the stock model: the optimizer
changes them, and checkpoints hold them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Index = tuple[int | slice, ...]
ALL = slice(None)
WHOLE = ("decoder.layers.cross_kv.weight", "decoder.layers.cross_kv.bias")  # used at once


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter's place in a stack."""

    parameter: nn.Parameter
    index: Index
    shape: tuple[int, ...]  # of the parameter in the stack, where heads are a dimension


@dataclass(frozen=True, slots=True)
class Kind:
    """The parameters of one kind, and the tensor that holds them."""

    name: str
    shape: tuple[int, ...]  # of weights of layers: the layers first
    parts: list[Part]

    @property
    def is_trained(self) -> bool:
        """Return whether any of its parameters is trained."""
        return any(part.parameter.requires_grad for part in self.parts)


class HalfWeights:
    """Half-precision copies of a model's weights, and the gradient of an update."""

    def __init__(self, whisper: Any, dtype: torch.dtype, *, head_padding: int) -> None:
        """Allocate the copies and the gradient, on the model's device.

        Args:
            whisper: a transformers WhisperForConditionalGeneration, in float32.
            dtype: of the copies.
            head_padding: channels of zeros that are added to each head where attention may use
                silence states.
        """
        kinds = list(kinds_of(whisper, head_padding))
        assert {id(part.parameter) for kind in kinds for part in kind.parts} == {
            id(parameter) for parameter in whisper.parameters()
        }
        self.gradient = torch.zeros(
            sum(math.prod(kind.shape) for kind in kinds if kind.is_trained), device=whisper.device
        )
        self.values = {
            kind.name: torch.zeros(kind.shape, dtype=dtype, device=whisper.device) for kind in kinds
        }
        self._copies: list[tuple[nn.Parameter, tuple[int, ...], Tensor]] = []
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []
        offset = 0
        for kind in kinds:
            value = self.values[kind.name]
            self._copies += [(p.parameter, p.shape, value[p.index]) for p in kind.parts]
            if kind.is_trained:
                size = value.numel()
                total = self.gradient[offset : offset + size].view(kind.shape)
                offset += size
                _accumulate(value, total)
                self._gradients += [
                    (p.parameter, total[p.index]) for p in kind.parts if p.parameter.requires_grad
                ]

    @torch.no_grad()
    def begin_update(self) -> None:
        """Cast the current weights, and set the gradient to zero."""
        self.gradient.zero_()
        torch._foreach_copy_(
            [copy for _, _, copy in self._copies],
            [parameter.view(shape) for parameter, shape, _ in self._copies],
        )

    def layers(self, name: str) -> list[dict[str, Tensor]]:
        """Return the weights of each layer.

        Args:
            name: encoder or decoder.
        """
        prefix = f"{name}.layers."
        stacks = {
            kind.removeprefix(prefix): value.unbind()
            for kind, value in self.values.items()
            if kind.startswith(prefix) and kind not in WHOLE
        }
        count = len(next(iter(stacks.values())))
        return [{kind: stack[number] for kind, stack in stacks.items()} for number in range(count)]

    def end_update(self) -> None:
        """Give each trained parameter its part of the gradient."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient.reshape(parameter.shape)  # a copy only of padded heads


def _accumulate(value: Tensor, total: Tensor) -> None:
    """Make backward passes add the gradient of a half-precision tensor to a float32 one."""

    def add(value: Tensor) -> None:
        total.add_(value.grad)  # type: ignore[arg-type]  # a hook runs when there is a gradient
        value.grad = None

    value.requires_grad_().register_post_accumulate_grad_hook(add)


def kinds_of(whisper: Any, head_padding: int) -> Iterator[Kind]:
    """Yield the kinds of weights of a Whisper, which together hold each parameter once.

    Args:
        whisper: a transformers WhisperForConditionalGeneration.
        head_padding: channels that are added to the heads of the encoder's self-attention and of
            the decoder's cross-attention.
    """
    encoder, decoder = whisper.model.encoder, whisper.model.decoder
    for name, layers in (("encoder", encoder.layers), ("decoder", decoder.layers)):
        own = [layer.self_attn for layer in layers]
        padding = head_padding if name == "encoder" else 0
        yield from _projections(f"{name}.layers.qkv", own, ("q_proj", "k_proj", "v_proj"), padding)
        yield from _output(f"{name}.layers.out", own, padding)
        for child in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"):
            modules = [getattr(layer, child) for layer in layers]
            yield from _layers(f"{name}.layers.{child}", modules)
    cross = [layer.encoder_attn for layer in decoder.layers]
    yield from _projections("decoder.layers.cross_q", cross, ("q_proj",), head_padding)
    yield from _projections("decoder.layers.cross_kv", cross, ("k_proj", "v_proj"), head_padding)
    yield from _output("decoder.layers.cross_out", cross, head_padding)
    norms = [layer.encoder_attn_layer_norm for layer in decoder.layers]
    yield from _layers("decoder.layers.encoder_attn_layer_norm", norms)
    for name, parameter in whisper.named_parameters():  # proj_out only where it is not tied
        if ".layers." not in name:
            shape = tuple(parameter.shape)
            yield Kind(name.removeprefix("model."), shape, [Part(parameter, (), shape)])


def _projections(
    name: str, attentions: Sequence[Any], projections: Sequence[str], padding: int
) -> Iterator[Kind]:
    """Yield weights (layers, projections, heads, head_dim + padding, d_model), and biases."""
    heads, head_dim = attentions[0].num_heads, attentions[0].head_dim
    shape = (len(attentions), len(projections), heads, head_dim + padding)
    weights, biases = [], []
    for number, attention in enumerate(attentions):
        for place, projection in enumerate(projections):
            module = getattr(attention, projection)
            index: Index = (number, place, ALL, slice(head_dim))
            weights.append(Part(module.weight, index, (heads, head_dim, module.in_features)))
            if module.bias is not None:
                biases.append(Part(module.bias, index, (heads, head_dim)))
    yield Kind(f"{name}.weight", (*shape, heads * head_dim), weights)
    yield Kind(f"{name}.bias", shape, biases)


def _output(name: str, attentions: Sequence[Any], padding: int) -> Iterator[Kind]:
    """Yield weights (layers, d_model, heads, head_dim + padding), and biases (layers, d_model)."""
    heads, head_dim = attentions[0].num_heads, attentions[0].head_dim
    d_model, modules = heads * head_dim, [attention.out_proj for attention in attentions]
    weights = [
        Part(module.weight, (number, ALL, ALL, slice(head_dim)), (d_model, heads, head_dim))
        for number, module in enumerate(modules)
    ]
    yield Kind(f"{name}.weight", (len(modules), d_model, heads, head_dim + padding), weights)
    yield _stacked(f"{name}.bias", [module.bias for module in modules])


def _layers(name: str, modules: Sequence[Any]) -> Iterator[Kind]:
    """Yield the weights and the biases of a module of each layer."""
    yield _stacked(f"{name}.weight", [module.weight for module in modules])
    yield _stacked(f"{name}.bias", [module.bias for module in modules])


def _stacked(name: str, parameters: Sequence[nn.Parameter]) -> Kind:
    shape = tuple(parameters[0].shape)
    parts = [Part(parameter, (number,), shape) for number, parameter in enumerate(parameters)]
    return Kind(name, (len(parameters), *shape), parts)
