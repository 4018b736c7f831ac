"""The memory that a Whisper takes on a GPU, by the estimate of `plan`, from its shapes alone.

python -m tests.benchmark.turbo --shape small --rows 16
python -m tests.benchmark.turbo --rank 32        # whisper-large-v3-turbo with LoRA
python -m tests.benchmark.turbo --rank 32 --bits 4 --shape large-v3        # QLoRA
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.batch import Shape
from data.log_mel import N_FRAMES
from eval.silence_states import patch_attention
from eval.whisper import TrueLengthEncoder, Whisper
from tests.benchmark.synthetic import SHAPES
from trainer.distributed.build_engine import build_engine
from trainer.half_precision.silence import HEAD_PADDING
from trainer.half_precision.weights import HalfWeights
from trainer.metrics.flops import whisper_flops
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, optimizer_state_bytes
from trainer.plan.memory_estimate import HEAP_FACTOR, MemoryEstimator

TOKENS = 64  # of a clip's text


def shaped(shape: str, layers: tuple[int, int], device: str) -> Whisper:
    """Return a model of a published shape, with so many layers of encoder and decoder.

    Its weights are constants.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    width, _, _, heads, mels, vocabulary = SHAPES[shape]
    encoder_layers, decoder_layers = layers
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
    if device != "meta":
        model.to_empty(device=device)
        for weight in model.parameters():
            torch.nn.init.constant_(weight, 1e-3)
    model.tie_weights()
    model.model.encoder.__class__ = TrueLengthEncoder
    patch_attention(model)
    return Whisper(model=model, processor=None, name=shape)


def fixed(shape: str, model: ModelConfig, optim: OptimConfig) -> float:
    """Print and return the bytes of weights, gradients and moments on the device."""
    module = prepare_training(shaped(shape, SHAPES[shape][1:3], "meta"), model)
    half = HalfWeights(
        module.whisper,
        torch.bfloat16,
        torch.device("meta"),
        head_padding=HEAD_PADDING,
        four_bits=model.base_bits is not None,
    )
    trained = [p for p in module.parameters() if p.requires_grad]
    float32 = sum(p.nbytes for p in trained)
    count = sum(p.numel() for p in module.parameters())
    print(f"trained {float32 / 4e6:.1f} M of {count / 1e6:.1f} M")
    gradient = half.gradient.nbytes
    parts = {
        "float32 weights": float32,
        "half-precision weights": half.nbytes - gradient,
        "gradients": gradient * 3 // 2,  # a backward pass adds one in half precision
        "moments": optimizer_state_bytes(module, optim),
    }
    print(", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items()))
    return sum(parts.values())


def passes(shape: str, model: ModelConfig, layers: tuple[int, int], rows: int) -> float:
    """Return the bytes of a pass of so many rows of 30 s."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    whisper = shaped(shape, layers, "cpu")
    flops = whisper_flops(whisper, model)
    module = prepare_training(whisper, model)
    engine = build_engine(accelerator, module, model, OptimConfig(), print)
    engine.begin_update()
    engine.model.train()
    memory = MemoryEstimator(accelerator, engine.model, Path("none"), moments=0, flops=flops)
    return (memory.peak(Shape(rows, N_FRAMES, TOKENS)) - memory.base) / HEAP_FACTOR


def main() -> None:
    """Print the parts and their sum. Layers are alike, so one and two of each are enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=sorted(SHAPES), default="large-v3-turbo")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rank", type=int, default=None)
    parser.add_argument("--modules", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--bits", type=int, default=None, help="of the frozen linear layers: 4")
    parser.add_argument("--optim", default="adamw")
    parser.add_argument("--keep", action="store_true", help="no gradient checkpointing")
    asked = parser.parse_args()
    model = ModelConfig(
        lora_rank=asked.rank,
        lora_modules=tuple(asked.modules),
        base_bits=asked.bits,
        gradient_checkpointing=not asked.keep,
        silence_states=False,
    )
    one, encoder, decoder = (
        passes(asked.shape, model, layers, asked.rows) for layers in ((1, 1), (2, 1), (1, 2))
    )
    layers = SHAPES[asked.shape][1:3]
    passed = one + (layers[0] - 1) * (encoder - one) + (layers[1] - 1) * (decoder - one)
    # after the passes: bitsandbytes keeps the tables of the first device that it quantized on
    held = fixed(asked.shape, model, OptimConfig(name=asked.optim))
    print(f"{asked.rows} of 30 s: {passed / 1e9:.2f} GB, in all {(held + passed) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
