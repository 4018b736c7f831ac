"""What other programs read beside the weights, and weights in half precision.

transformers 5 writes a tokenizer and a processor as one file each. faster-whisper, transformers 4
and whisper.cpp's converter look for the files that it no longer writes.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from whisper_normalizer.english import EnglishSpellingNormalizer

from data.atomic_files import write_json, write_text
from data.errors import InputError


def write_companions(folder: Path, processor: Any) -> None:
    """Write the files of older readers into an exported model's folder."""
    processor.feature_extractor.save_pretrained(folder)  # preprocessor_config.json
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = told["model"]["vocab"], told["model"]["merges"]
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    added = {each["content"]: each["id"] for each in told["added_tokens"]}
    write_json(
        folder / "added_tokens.json", {k: v for k, v in added.items() if k not in vocabulary}
    )
    # without it tokenizer.normalize() crashes; transformers' wheel does not hold it
    write_json(folder / "normalizer.json", EnglishSpellingNormalizer().mapping)


def halve(folder: Path) -> None:
    """Turn the weights of an exported model into float16: half the size, and what GPUs decode in.

    Raises:
        InputError: a weight is too large for it.
    """
    path = folder / "model.safetensors"
    weights = {
        name: w.half() if w.is_floating_point() else w for name, w in load_file(path).items()
    }
    wrong = [name for name, w in weights.items() if not torch.isfinite(w).all()]
    if wrong:
        raise InputError(
            f"publish.precision=fp16: {wrong[0]} has weights beyond 65,504, which fp16 cannot "
            "hold: set publish.precision=fp32"
        )
    save_file(weights, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"dtype": "float16"})
