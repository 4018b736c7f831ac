"""Kinds of weights: those of all layers that have the same function, which lie in one tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Index = tuple[int | slice, ...]
ALL = slice(None)


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
    outputs: int = 0  # of matrices of layers: dimensions after the first that are of the output

    @property
    def is_trained(self) -> bool:
        """Return whether any of its parameters is trained."""
        return any(part.parameter.requires_grad for part in self.parts)

    def as_matrices(self, value: Tensor) -> Tensor:
        """View the weights of linear layers as (layers, outputs, inputs); others do not change."""
        return value.flatten(1, self.outputs).flatten(2) if self.outputs else value


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
    yield Kind(f"{name}.weight", (*shape, heads * head_dim), weights, outputs=3)
    yield Kind(f"{name}.bias", shape, biases)


def _output(name: str, attentions: Sequence[Any], padding: int) -> Iterator[Kind]:
    """Yield weights (layers, d_model, heads, head_dim + padding), and biases (layers, d_model)."""
    heads, head_dim = attentions[0].num_heads, attentions[0].head_dim
    d_model, modules = heads * head_dim, [attention.out_proj for attention in attentions]
    weights = [
        Part(module.weight, (number, ALL, ALL, slice(head_dim)), (d_model, heads, head_dim))
        for number, module in enumerate(modules)
    ]
    shape = (len(modules), d_model, heads, head_dim + padding)
    yield Kind(f"{name}.weight", shape, weights, outputs=1)
    yield _stacked(f"{name}.bias", [module.bias for module in modules])


def _layers(name: str, modules: Sequence[Any]) -> Iterator[Kind]:
    """Yield the weights and the biases of a module of each layer."""
    yield _stacked(f"{name}.weight", [module.weight for module in modules])
    yield _stacked(f"{name}.bias", [module.bias for module in modules])


def _stacked(name: str, parameters: Sequence[nn.Parameter]) -> Kind:
    shape = tuple(parameters[0].shape)
    parts = [Part(parameter, (number,), shape) for number, parameter in enumerate(parameters)]
    return Kind(name, (len(parameters), *shape), parts, outputs=len(shape) - 1)


def trained_layers(kinds: Sequence[Kind]) -> set[tuple[str, Any]]:
    """Return the layers in which a weight is trained: encoder or decoder, and the number."""
    return {
        (kind.name.split(".")[0], part.index[0])
        for kind in kinds
        if ".layers." in kind.name
        for part in kind.parts
        if part.parameter.requires_grad
    }
