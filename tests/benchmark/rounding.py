"""Measure how far rounding moves the gradient: under autocast, and with half-precision weights.

    python -m tests.benchmark.rounding
    python -m tests.benchmark.rounding --model=FOLDER --corpus=FOLDER --language=en

Models have random weights and a small width; the error grows with the depth. Some channels of the
input of the first layer may be large, as in trained models. With --model the gradients are those of
a trained model on passes of 3 or 4 clips of a corpus.
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from data.batch import Position, target_positions
from data.config import DataConfig
from data.dataloader import BatchPreparer, train_batches
from data.errors import plain_errors
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from eval.silence_states import patch_attention
from eval.whisper import TrueLengthEncoder, load_whisper
from tests.benchmark.operations import HEADS, SIZE, TOKENS
from trainer.half_precision.forward import HalfForward
from trainer.half_precision.graphs import Inputs
from trainer.model import ModelConfig, TrainingModule, prepare_training

DEPTHS = (2, 12, 24)  # layers of encoder and decoder each; whisper-small has 12, medium 24
LARGE = (0.0, 100.0)  # added to LARGE_CHANNELS channels of the input of the first layer
LARGE_CHANNELS = 2
PASSES = 5  # of a trained model
INIT_STD = 0.05  # of the weights, so that layers change the residual sum


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--corpus", "--language"):
        parser.add_argument(name)
    asked = parser.parse_args()
    table = Table("", "autocast", "residual bf16", "residual fp32")
    if asked.model:
        found = torch.tensor([errors(*each) for each in passes(**vars(asked))])
        found = torch.cat([found, found.mean(0, keepdim=True)])
        names = [*(f"pass {number}" for number in range(1, len(found))), "mean"]
        for name, row in zip(names, found.tolist(), strict=True):
            table.add_row(name, *(f"{share:.2%}" for share in row))
    else:
        for depth, large in product(DEPTHS, LARGE):
            row = errors(build(depth, large), inputs())
            name = f"{depth} + {depth} layers, large values {large:.0f}"
            table.add_row(name, *(f"{share:.2%}" for share in row))
    Console().print(table)


def errors(module: TrainingModule, batch: Inputs) -> list[float]:
    """Return the errors under autocast, and with a residual sum in bf16 and in float32."""
    exact = gradient(module, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = [error(gradient(module, batch), exact)]
    for residual in (torch.bfloat16, torch.float32):
        found.append(error(half_gradient(module, batch, residual), exact))
        module.half_forward = None
    return found


def passes(model: str, corpus: str, language: str) -> Iterator[tuple[TrainingModule, Inputs]]:
    """Yield a trained model and some passes of a corpus."""
    whisper = load_whisper(model)
    config = DataConfig(
        corpus=(corpus,), language=(language,), update_clips=4, workers=0, fixed_shapes=False
    )
    with tempfile.TemporaryDirectory() as folder:
        manifest, _ = build_manifest(config, whisper.labels(), Path(folder) / "scan", show=False)
    module = prepare_training(whisper, ModelConfig()).train()
    sampler = BucketedBatchSampler(
        Plan.from_utterances(manifest.train, config, seed=0), config, updates=0
    )
    preparer = BatchPreparer(whisper.labels(), whisper.n_mels, torch.device("cpu"))
    loader = train_batches(manifest.train, config, preparer, sampler)
    whole = (b for b in loader.start(Position(0, 0), 10 * PASSES) if len(b.ids) >= 3)
    for batch in islice(whole, PASSES):
        yield module, Inputs(batch.features, batch.decoder_input_ids, batch.labels, batch.targets)


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


def inputs() -> Inputs:
    """Return features of three clips, and random tokens."""
    ids = torch.randint(5, 300, (3, 12))
    return Inputs(torch.randn(3, 80, 208), ids, ids, target_positions(ids))


def gradient(module: TrainingModule, batch: Inputs) -> dict[str, Tensor]:
    """Return the gradient of a pass, and clear it."""
    module.losses(batch).sum().backward()
    if module.half_forward is not None:
        module.half_forward.weights.end_update()
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def half_gradient(
    module: TrainingModule, batch: Inputs, residual: torch.dtype
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
    with plain_errors():
        main()
