"""Matrices in 4 bits (NF4), for the frozen weights of QLoRA: https://arxiv.org/abs/2305.14314."""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from data.errors import InputError


class FourBitMatrix:
    """A frozen matrix in NF4, with a scale for every 64 values; a product dequantizes it."""

    def __init__(self, matrix: Tensor) -> None:
        """Quantize a matrix (outputs, inputs) on its device."""
        self._functional = _bitsandbytes()
        self._shape = matrix.shape
        # flat: on a CPU bitsandbytes 0.50 dequantizes wrongly if rows are no multiple of its blocks
        self._values, self._state = self._functional.quantize_4bit(
            matrix.flatten(), quant_type="nf4", compress_statistics=True
        )

    @property
    def nbytes(self) -> int:
        """Return the bytes of values and scales."""
        scales = self._state.absmax.nbytes + self._state.state2.absmax.nbytes
        return int(self._values.nbytes + scales)

    def dequantize(self) -> Tensor:
        """Return the matrix in its original dtype."""
        flat: Tensor = self._functional.dequantize_4bit(self._values, self._state)
        return flat.view(self._shape)


class _Linear(torch.autograd.Function):
    """F.linear with a frozen matrix and bias; the backward pass dequantizes the matrix again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, matrix: FourBitMatrix, bias: Tensor) -> Tensor:
        ctx.matrix = matrix
        return F.linear(inputs, matrix.dequantize(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ ctx.matrix.dequantize(), None, None


def linear(inputs: Tensor, weight: Tensor | FourBitMatrix, bias: Tensor) -> Tensor:
    """Return what F.linear does."""
    if isinstance(weight, Tensor):
        return F.linear(inputs, weight, bias)
    product: Tensor = _Linear.apply(inputs, weight, bias)
    return product


def refuse_without_bitsandbytes(device: torch.device) -> None:
    """Check that bitsandbytes can quantize on a device.

    Raises:
        InputError: it is not installed, or does not support the device.
    """
    try:
        FourBitMatrix(torch.ones(8, 64, device=device)).dequantize()
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"model.base_bits=4 needs bitsandbytes on {device.type} ({reason}): pip install "
            '"whisper-loop[qlora]", or remove model.base_bits'
        ) from error


def _bitsandbytes() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of optional kernels
    from bitsandbytes import functional

    return functional
