"""What whisper-large-v3-turbo takes on a GPU, by the estimate of `plan`: its shapes are enough.

python -m tests.benchmark.turbo --rows 8 --rank 32
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.features import N_FRAMES
from data.utterance import Shape
from eval.silence import install
from eval.whisper import TrueLengthEncoder, Whisper
from trainer.footprint import HEAP, Memory
from trainer.model import ModelConfig, prepare_training
from trainer.optim import OptimConfig, moments_of

TOKENS = 64  # of a clip's text
SHAPES = {
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 4,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "vocab_size": 51866,
}


def turbo() -> Whisper:
    """Return a model of its shapes; nobody asks what is in it."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    with torch.device("meta"):
        model: Any = WhisperForConditionalGeneration(WhisperConfig(**SHAPES))
    model.to_empty(device="cpu")
    for weight in model.parameters():
        torch.nn.init.constant_(weight, 1e-3)
    model.tie_weights()
    model.model.encoder.__class__ = TrueLengthEncoder
    install(model)
    return Whisper(model=model, processor=None, name="turbo")


def main() -> None:
    """Print the parts, and what they come to, in GB."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rank", type=int, default=None)
    parser.add_argument("--modules", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--optim", default="adamw")
    parser.add_argument("--keep", action="store_true", help="no gradient checkpointing")
    asked = parser.parse_args()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model = ModelConfig(
        lora_rank=asked.rank,
        lora_modules=tuple(asked.modules),
        gradient_checkpointing=not asked.keep,
        silence=False,
    )
    module = accelerator.prepare(prepare_training(turbo(), model)).train()
    moments = moments_of(module, OptimConfig(name=asked.optim))
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = sum(p.nbytes for p in module.parameters())
    head = module.whisper.proj_out.weight
    fixed = weights + moments + sum(p.nbytes for p in trained)
    fixed += head.nbytes if head.requires_grad else 0
    recomputes = model.gradient_checkpointing
    memory = Memory(accelerator, module, Path("none"), moments=moments, recomputes=recomputes)
    print(f"trained {sum(p.numel() for p in trained) / 1e6:.1f} M of {weights / 4e6:.1f} M")
    print(f"weights {weights / 1e9:.2f}, moments {moments / 1e9:.2f}, in all {fixed / 1e9:.2f} GB")
    for rows in asked.rows:
        passed = (memory.peak(Shape(rows, N_FRAMES, TOKENS)) - memory.rest) / HEAP
        print(f"{rows} of 30 s: {passed / 1e9:.2f}, in all {(fixed + passed) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
