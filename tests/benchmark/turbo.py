"""The memory that a Whisper takes on a GPU, counted as `plan` does, from its shapes alone.

python -m tests.benchmark.turbo --shape small --rows 16
python -m tests.benchmark.turbo --rank 32        # whisper-large-v3-turbo with LoRA
python -m tests.benchmark.turbo --rank 32 --bits 4 --shape large-v3        # QLoRA
"""

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.log_mel import N_FRAMES
from eval.silence_states import patch_attention
from eval.whisper import TrueLengthEncoder, Whisper
from tests.benchmark.synthetic import SHAPES
from trainer.distributed.build_engine import build_engine
from trainer.half_precision.silence import HEAD_PADDING
from trainer.half_precision.weights import HalfWeights
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, optimizer_state_bytes
from trainer.plan.live_memory import LiveMemory

TOKENS = 64  # of a clip's text


def shaped(shape: str) -> Whisper:
    """Return a model of a published shape, with weights on the meta device."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    width, encoder_layers, decoder_layers, heads, mels, vocabulary = SHAPES[shape]
    with torch.device("meta"):
        config = WhisperConfig(
            d_model=width,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
            num_mel_bins=mels,
            vocab_size=vocabulary,
        )
        model: Any = WhisperForConditionalGeneration(config)
    model.tie_weights()
    model.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(model)
    return Whisper(model=model, processor=None, name=shape)


def fixed(shape: str, model: ModelConfig, optim: OptimConfig) -> float:
    """Print and return the bytes of weights, gradients and moments on the device."""
    module = prepare_training(shaped(shape), model)
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = list(module.parameters())
    print(f"trained {_count(trained) / 1e6:.1f} M of {_count(weights) / 1e6:.1f} M")
    parts = {"float32 weights": 4 * _count(trained if model.cast_once else weights)}
    if model.cast_once:
        half = HalfWeights(
            module.whisper,
            torch.bfloat16,
            torch.device("meta"),
            head_padding=HEAD_PADDING,
            four_bits=model.base_bits is not None,
        )
        parts["half-precision weights"] = half.nbytes - half.gradient.nbytes
        parts["gradients"] = half.gradient.nbytes
    else:
        parts["gradients"] = 4 * _count(trained)
    parts["moments"] = optimizer_state_bytes(module, optim)
    print(", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items()))
    return sum(parts.values())


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def pass_bytes(shape: str, model: ModelConfig, rows: int) -> int:
    """Return the peak of the bytes that a pass of so many rows of 30 s allocates."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    module = prepare_training(shaped(shape), model)
    with FakeTensorMode(allow_non_fake_inputs=True):  # nothing is allocated or computed
        module.to_empty(device="cpu").whisper.tie_weights()
        if model.cast_once:
            build_engine(accelerator, module, model, OptimConfig(), print).begin_update()
        else:  # the gradients of an earlier pass
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        n_mels = module.train().whisper.config.num_mel_bins
        with LiveMemory() as memory:
            features, targets = torch.zeros(rows, n_mels, N_FRAMES), torch.arange(rows * TOKENS)
            ids = torch.zeros(rows, TOKENS, dtype=torch.long)
            with torch.autocast("cpu", torch.bfloat16, enabled=not model.cast_once):
                loss = module(features, ids, ids, targets=targets).sum()
            loss.backward()
    return max(memory.history)


def main() -> None:
    """Print the parts and their sum."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=sorted(SHAPES), default="large-v3-turbo")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rank", type=int, default=None)
    parser.add_argument("--modules", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--bits", type=int, default=None, help="of the frozen linear layers: 4")
    parser.add_argument("--optim", default="adamw")
    parser.add_argument("--keep", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--autocast", action="store_true", help="model.cast_once=false")
    asked = parser.parse_args()
    model = ModelConfig(
        lora_rank=asked.rank,
        lora_modules=tuple(asked.modules),
        base_bits=asked.bits,
        gradient_checkpointing=not asked.keep,
        silence_states=False,
        cast_once=not asked.autocast,
    )
    held = fixed(asked.shape, model, OptimConfig(name=asked.optim))
    if asked.bits is not None:  # bitsandbytes does not support fake tensors
        print(f"without a pass {held / 1e9:.2f} GB")
        return
    passed = pass_bytes(asked.shape, model, asked.rows)
    print(f"{asked.rows} of 30 s: {passed / 1e9:.2f} GB, in all {(held + passed) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
