"""What whisper-large-v3-turbo takes on a GPU, by the estimate of `plan`: its shapes are enough.

python -m tests.benchmark.turbo --rows 8 --rank 32
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.batch import Shape
from data.log_mel import N_FRAMES
from eval.silence_states import install
from eval.whisper import TrueLengthEncoder, Whisper
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, moments_of
from trainer.plan.memory_estimate import HEAP, Memory

LAYERS = 32  # of the encoder
TOKENS = 64  # of a clip's text
SHAPES = {
    "d_model": 1280,
    "decoder_layers": 4,
    "encoder_attention_heads": 20,
    "decoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "decoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "vocab_size": 51866,
}


def turbo(encoder_layers: int, device: str) -> Whisper:
    """Return a model of its shapes; nobody asks what is in it."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    with torch.device("meta"):
        config = WhisperConfig(**SHAPES, encoder_layers=encoder_layers)
        model: Any = WhisperForConditionalGeneration(config)
    if device != "meta":
        model.to_empty(device=device)
        for weight in model.parameters():
            torch.nn.init.constant_(weight, 1e-3)
    model.tie_weights()
    model.model.encoder.__class__ = TrueLengthEncoder
    install(model)
    return Whisper(model=model, processor=None, name="turbo")


def fixed(model: ModelConfig, optim: OptimConfig) -> float:
    """Print and return the bytes of weights, gradients and moments."""
    module = prepare_training(turbo(LAYERS, "meta"), model)
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = sum(p.nbytes for p in module.parameters())
    gradients, moments = sum(p.nbytes for p in trained), moments_of(module, optim)
    head = module.whisper.proj_out.weight
    gradients += head.nbytes if head.requires_grad else 0
    print(f"trained {sum(p.numel() for p in trained) / 1e6:.1f} M of {weights / 4e6:.1f} M")
    parts = {"weights": weights, "gradients": gradients, "moments": moments}
    print(", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items()))
    return sum(parts.values())


def passes(model: ModelConfig, encoder_layers: int, rows: int) -> float:
    """Return the bytes of a pass of so many rows of 30 s."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    module = accelerator.prepare(prepare_training(turbo(encoder_layers, "cpu"), model)).train()
    recomputes = model.gradient_checkpointing
    memory = Memory(accelerator, module, Path("none"), moments=0, recomputes=recomputes)
    return (memory.peak(Shape(rows, N_FRAMES, TOKENS)) - memory.rest) / HEAP


def main() -> None:
    """Print the parts, and what they come to: layers are alike, so a few tell of all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rank", type=int, default=None)
    parser.add_argument("--modules", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--optim", default="adamw")
    parser.add_argument("--keep", action="store_true", help="no gradient checkpointing")
    asked = parser.parse_args()
    model = ModelConfig(
        lora_rank=asked.rank,
        lora_modules=tuple(asked.modules),
        gradient_checkpointing=not asked.keep,
        silence=False,
    )
    held = fixed(model, OptimConfig(name=asked.optim))
    one, two = (passes(model, layers, asked.rows) for layers in (1, 2))
    passed = one + (LAYERS - 1) * (two - one)
    print(f"{asked.rows} of 30 s: {passed / 1e9:.2f} GB, in all {(held + passed) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
