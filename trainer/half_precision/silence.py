"""Keys and values of silence states, which keep flash attention: a channel instead of a mask.

Silence states (eval/silence_states.py) are keys and values behind those of each clip, with log 8
added to their attention logits. An attention mask would exclude flash attention. Instead each head
has HEAD_PADDING further channels. The first of them is 1 in every query, log 8 / scale in the keys
of silence, and 0 in other keys. They come out of the projections, whose weights are padded.
"""

import math

import torch
from torch import Tensor

from eval.silence_states import STRIDE

HEAD_PADDING = 8  # channels; attention kernels require a multiple of 8


def project_silence(
    states: Tensor, weight: Tensor, bias: Tensor, *, channel: int, scale: float
) -> Tensor:
    """Return keys and values of silence states for all layers, in one product.

    Args:
        states: inputs of the layers, (layers, n, d_model); (1, n, d_model) if they share them.
        weight: of keys and values, (layers, 2, heads, channels, d_model).
        bias: (layers, 2, heads, channels).
        channel: that is 1 in queries.
        scale: of attention logits.

    Returns:
        Keys and values. Shape: (layers, 2, n, heads, channels).
    """
    logit = torch.zeros_like(bias[0])
    logit[0, :, channel] = math.log(STRIDE) / scale
    product = torch.baddbmm(
        (bias + logit).flatten(1)[:, None],
        states.expand(len(weight), -1, -1),
        weight.flatten(1, 3).transpose(1, 2),
    )
    return product.unflatten(-1, bias.shape[1:]).transpose(1, 2)


def append_silence(keys_values: Tensor, silence: Tensor) -> Tensor:
    """Append the same positions to each row.

    Shapes: (…, batch, n, heads, channels) and (…, m, heads, channels) →
    (…, batch, n + m, heads, channels).
    """
    rows = silence.unsqueeze(-4).expand(*keys_values.shape[:-3], -1, -1, -1)
    return torch.cat([keys_values, rows], dim=-3)
