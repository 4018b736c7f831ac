"""Measure how far rounding moves the gradient: under autocast, and with half-precision weights.

    python -m tests.benchmark.rounding

Models have random weights and a small width; the error grows with the depth. Some channels of the
input of the first layer may be large, as in trained models.
"""

from itertools import product
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.batch import target_positions
from eval.silence_states import patch_attention
from eval.whisper import TrueLengthEncoder
from tests.benchmark.operations import HEADS, SIZE, TOKENS
from trainer.half_precision.forward import HalfForward
from trainer.model import TrainingModule

DEPTHS = (2, 12, 24)  # layers of encoder and decoder each; whisper-small has 12, medium 24
LARGE = (0.0, 100.0)  # added to LARGE_CHANNELS channels of the input of the first layer
LARGE_CHANNELS = 2
INIT_STD = 0.05  # of the weights, so that layers change the residual sum


def main() -> None:
    """Print the table."""
    table = Table("layers", "large channels", "autocast", "residual bf16", "residual fp32")
    for depth, large in product(DEPTHS, LARGE):
        module, batch = build(depth, large), inputs()
        exact = gradient(module, batch)
        with torch.autocast("cpu", torch.bfloat16):
            errors = [error(gradient(module, batch), exact)]
        for residual in (torch.bfloat16, torch.float32):
            errors.append(error(half_gradient(module, batch, residual), exact))
            module.half_forward = None
        table.add_row(f"{depth} + {depth}", str(large), *(f"{share:.2%}" for share in errors))
    Console().print(table)


def build(depth: int, large: float) -> TrainingModule:
    """Return a training module with random weights."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration  # after data

    layers = {"encoder_layers": depth, "decoder_layers": depth, "init_std": INIT_STD}
    suppress: dict[str, Any] = {"suppress_tokens": None, "begin_suppress_tokens": None}
    torch.manual_seed(0)
    whisper: Any = WhisperForConditionalGeneration(
        WhisperConfig(**SIZE, **HEADS, **TOKENS, **layers, **suppress)
    )
    whisper.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(whisper)
    with torch.no_grad():
        for stack in (whisper.model.encoder, whisper.model.decoder):
            stack.embed_positions.weight[:, :LARGE_CHANNELS] += large
    return TrainingModule(whisper, freeze_encoder=False).train()


def inputs() -> tuple[Tensor, Tensor]:
    """Return features of three clips and their token ids."""
    return torch.randn(3, 80, 208), torch.randint(5, 300, (3, 12))


def gradient(module: TrainingModule, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of a pass, and clear it."""
    features, ids = batch
    module(features, ids, ids, targets=target_positions(ids)).sum().backward()
    if module.half_forward is not None:
        module.half_forward.weights.end_update()
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def half_gradient(
    module: TrainingModule, batch: tuple[Tensor, Tensor], residual: torch.dtype
) -> dict[str, Tensor]:
    """Return the gradient in bf16 with half-precision weights.

    Args:
        module: the model.
        batch: of the pass.
        residual: precision of the residual sum.
    """
    module.half_forward = HalfForward(module.whisper, torch.bfloat16, torch.device("cpu"))
    module.half_forward.residual = residual
    module.half_forward.weights.begin_update()
    return gradient(module, batch)


def error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Return the norm of the difference, as a share of the norm of the exact gradient."""
    norm = torch.nn.utils.get_total_norm
    return float(norm([found[name] - exact[name] for name in exact]) / norm(exact.values()))


if __name__ == "__main__":
    main()
