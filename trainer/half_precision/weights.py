"""HalfWeights: a Whisper's weights in half precision, cast once an update; gradients in float32.

Autocast casts every weight in every pass, and its gradient back: hundreds of operations a pass,
which a GPU takes longer to start than to compute. Here the weights of one kind lie in one tensor
for all layers. An update casts the trained ones in one operation. A pass adds the gradient of a
kind to float32 in one operation. Only the matrices of linear layers, which are large, are added one
by one, so that their gradients of all layers are never held at once. Frozen weights are cast once,
and may be held in 4 bits. The float32 weights stay those of the stock model: the optimizer changes
them, and checkpoints hold them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.half_precision.adapters import adapter_kinds
from trainer.half_precision.four_bit import FourBitMatrix
from trainer.half_precision.kinds import Kind, Part, kinds_of, trained_layers

Weight = Tensor | FourBitMatrix
AT_ONCE = "decoder.layers.cross_kv."  # kinds of which all layers are used at once


class HalfWeights:
    """Half-precision copies of a model's weights, and the gradient of an update."""

    def __init__(
        self,
        whisper: Any,
        dtype: torch.dtype,
        device: torch.device,
        *,
        head_padding: int,
        four_bits: bool = False,
    ) -> None:
        """Allocate the copies and the gradient, and cast the frozen weights.

        Args:
            whisper: a transformers WhisperForConditionalGeneration in float32, perhaps with
                adapters. Frozen weights may be on another device, such as the CPU.
            dtype: of the copies.
            device: of the copies and the gradient.
            head_padding: channels of zeros added to each head where there may be silence states.
            four_bits: hold frozen matrices of layers in 4 bits.
        """
        kinds = _all_kinds(whisper, head_padding)
        self._kinds = {kind.name: kind for kind in kinds}
        self._trained_layers = trained_layers(kinds)
        self._four_bit = [k for k in kinds if four_bits and k.outputs and not k.is_trained]
        self.matrices: dict[str, list[FourBitMatrix]] = {}  # of layers; one for kinds AT_ONCE
        self.values = {
            kind.name: torch.zeros(kind.shape, dtype=dtype, device=device)
            for kind in kinds
            if kind not in self._four_bit
        }
        places = [(p, v[p.index]) for name, v in self.values.items() for p in self._parts(name)]
        self._trained = [place for place in places if place[0].parameter.requires_grad]
        self._frozen = [place for place in places if not place[0].parameter.requires_grad]
        sizes = [math.prod(kind.shape) for kind in kinds if kind.is_trained]
        self.gradient = torch.zeros(sum(sizes), device=device)
        self._gradients = self._add_gradients([kind for kind in kinds if kind.is_trained])
        self._dtype, self._device = dtype, device
        self.cast_frozen()

    def _parts(self, name: str) -> list[Part]:
        return self._kinds[name].parts

    def _add_gradients(self, kinds: Sequence[Kind]) -> list[tuple[nn.Parameter, Tensor]]:
        """Make backward passes add to the gradient; return the part of each trained parameter."""
        # one tensor a layer, with a gradient of its own
        self._trained_matrices: dict[str, list[Tensor]] = {}
        parts, offset = [], 0
        for kind in kinds:
            value = self.values[kind.name]
            total = self.gradient[offset : offset + value.numel()].view(kind.shape)
            offset += value.numel()
            if kind.outputs:
                self._trained_matrices[kind.name] = [
                    _accumulate(matrix.detach(), gradient)
                    for matrix, gradient in zip(*map(kind.as_matrices, (value, total)), strict=True)
                ]
            _accumulate(value, total)
            parts += [
                (p.parameter, total[p.index]) for p in kind.parts if p.parameter.requires_grad
            ]
        return parts

    @torch.no_grad()
    def cast_frozen(self) -> None:
        """Cast the frozen weights; call it again after loading a checkpoint."""
        for part, copy in self._frozen:
            copy.copy_(part.parameter.view(part.shape))
        for kind in self._four_bit:
            stack = torch.zeros(kind.shape, dtype=self._dtype, device=self._device)
            for part in kind.parts:
                stack[part.index] = part.parameter.view(part.shape).to(stack)
            rows = kind.as_matrices(stack)
            groups = [rows.flatten(0, 1)] if kind.name.startswith(AT_ONCE) else rows.unbind()
            self.matrices[kind.name] = [FourBitMatrix(matrix) for matrix in groups]

    @torch.no_grad()
    def cast_trained(self) -> None:
        """Cast the current trained weights."""
        torch._foreach_copy_(
            [copy for _, copy in self._trained],
            [part.parameter.view(part.shape) for part, _ in self._trained],
        )

    def begin_update(self) -> None:
        """Cast the current trained weights, and set the gradient to zero."""
        self.gradient.zero_()
        self.cast_trained()

    def layers(self, name: str, *, at_once: bool = False) -> list[dict[str, Any]]:
        """Return the weights of each layer; those of linear layers are (outputs, inputs).

        Args:
            name: encoder or decoder.
            at_once: include the kinds AT_ONCE, which must not be held in 4 bits.
        """
        prefix = f"{name}.layers."
        stacks: dict[str, Sequence[Weight]] = {
            kind: self._trained_matrices.get(kind) or self._kinds[kind].as_matrices(value).unbind()
            for kind, value in self.values.items()
        }
        stacks = {
            kind.removeprefix(prefix): self.detach_frozen(name, weights)
            for kind, weights in {**stacks, **self.matrices}.items()
            if kind.startswith(prefix) and (at_once or not kind.startswith(AT_ONCE))
        }
        count = len(next(iter(stacks.values())))
        return [{kind: stack[number] for kind, stack in stacks.items()} for number in range(count)]

    def detach_frozen(self, name: str, weights: Sequence[Any]) -> list[Any]:
        """Detach tensors of layers in which nothing is trained: backward passes end there.

        Args:
            name: encoder or decoder.
            weights: one of each layer.
        """
        return [
            weight.detach()
            if isinstance(weight, Tensor) and (name, number) not in self._trained_layers
            else weight
            for number, weight in enumerate(weights)
        ]

    def at_once(self, name: str) -> Weight:
        """Return the weights (outputs, inputs) of all layers of a kind."""
        if name in self.matrices:
            return self.matrices[name][0]
        return self._kinds[name].as_matrices(self.values[name]).flatten(0, 1)

    def dense(self, name: str) -> Tensor:
        """Return the weights of a kind in one tensor, dequantized if they are held in 4 bits."""
        if name not in self.matrices:
            return self.values[name]
        return torch.stack([m.dequantize() for m in self.matrices[name]]).view(
            self._kinds[name].shape
        )

    def end_update(self) -> None:
        """Give each trained parameter its part of the gradient."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient.reshape(parameter.shape)  # a copy only of padded heads

    @property
    def nbytes(self) -> int:
        """Return the bytes of the copies and the gradient."""
        matrices = sum(m.nbytes for layers in self.matrices.values() for m in layers)
        return matrices + self.gradient.nbytes + sum(v.nbytes for v in self.values.values())


def _all_kinds(whisper: Any, head_padding: int) -> list[Kind]:
    """Return the kinds of weights of a model and its adapters, which hold each parameter once."""
    kinds = list(kinds_of(whisper, head_padding))
    kinds += adapter_kinds(whisper, kinds)
    assert {id(part.parameter) for kind in kinds for part in kind.parts} == {
        id(parameter) for parameter in whisper.parameters()
    }
    return kinds


def _accumulate(value: Tensor, total: Tensor) -> Tensor:
    """Make backward passes add the gradient of a half-precision tensor to a float32 one.

    Returns:
        The half-precision tensor.
    """

    def add(value: Tensor) -> None:
        # first, so that an error below leaves nothing to the next update
        gradient, value.grad = value.grad, None
        total.add_(gradient)  # type: ignore[arg-type]  # a hook runs when there is a gradient

    value.requires_grad_().register_post_accumulate_grad_hook(add)
    return value
