"""Frozen weights keep their bits, and a name that matches no weight is an error."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.errors import InputError
from eval.whisper import load_whisper
from trainer.model import ModelConfig, TrainingModule, prepare_training


def frozen(model: Path, *names: str) -> TrainingModule:
    """Return what trains all but some parts."""
    return prepare_training(load_whisper(str(model)), ModelConfig(freeze=names))


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("model.encoder", ("model.encoder.",)),
        ("model.decoder.layers.0", ("model.decoder.layers.0.",)),
        ("*.embed_positions", ("model.encoder.embed_pos", "model.decoder.embed_pos")),
        ("model.encoder.layers.[01].fc1", tuple(f"model.encoder.layers.{i}.fc1" for i in (0, 1))),
        ("*.layer_norm.bias", ("model.encoder.layer_norm.bias", "model.decoder.layer_norm.bias")),
        ("proj_out", ("model.decoder.embed_tokens",)),  # one matrix with two names
    ],
)
def test_a_name_or_a_pattern_freezes_what_is_below_it(
    wide_model: Path, pattern: str, parts: tuple[str, ...]
) -> None:
    for name, weight in frozen(wide_model, pattern).whisper.named_parameters():
        assert weight.requires_grad != name.startswith(parts), name


def test_frozen_weights_are_the_same_after_training(trainer: Any, tmp_path: Path) -> None:
    run, names = tmp_path / "run", ("model.encoder.conv1", "*.embed_tokens", "*.fc?")
    trainer(run, "--model.freeze", *names, "--optim.weight_decay=0.1", "--loop.max_steps=3")
    before, after = (load_file(f / "model.safetensors") for f in (trainer.model, run / "model"))
    held = {name for name in before if torch.equal(before[name], after[name])}
    frozen_names = {
        name for name in before if "conv1" in name or "embed_tokens" in name or ".fc" in name
    }
    assert frozen_names <= held
    assert not any("conv2" in name or "layer_norm" in name for name in held)


def test_a_frozen_encoder_is_known_by_its_name_too(blank_model: Path) -> None:
    assert frozen(blank_model, "model.encoder").freeze_encoder
    assert not frozen(blank_model, "model.encoder.layers").freeze_encoder


@pytest.mark.parametrize("pattern", ["encoder", "model.encoder.layers.7", "*.adapter", ""])
def test_a_name_that_fits_nothing_is_told(blank_model: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"matches no weight; names begin with: model\.encoder"):
        frozen(blank_model, pattern)


def test_something_must_be_left_to_train(blank_model: Path) -> None:
    with pytest.raises(InputError, match="all weights are frozen"):
        frozen(blank_model, "model")
