"""Models with other settings than the published ones are computed as the stock model does."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from data.errors import InputError
from tests.trainer.half_precision.test_forward import (
    ALL,
    difference,
    gradients_of,
    half_of,
    inputs,
    module_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({"activation_function": "relu"}, None),  # of the layers; the convolutions keep GELU
        ({"decoder_attention_heads": 8}, 4),
        ({"encoder_attention_heads": 8}, None),
        ({"decoder_ffn_dim": 192, "encoder_layers": 3, "decoder_layers": 1}, 4),
        ({"tie_word_embeddings": False, "pad_token_id": None, "scale_embedding": True}, 4),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_in_float32_losses_and_gradients_are_those_of_the_stock_model(
    wide_model: Path, tmp_path: Path, settings: dict[str, Any], rank: int | None
) -> None:
    model = with_settings(wide_model, tmp_path / "model", **settings)
    batch, module = inputs(), module_of(model, lora_rank=rank, lora_modules=ALL)
    expected, stock = module(*batch), gradients_of(module, batch)
    module.zero_grad()
    half_of(module, torch.float32)
    torch.testing.assert_close(module(*batch), expected, rtol=1e-5, atol=1e-5)
    assert difference(gradients_of(module, batch), stock) < 1e-5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"encoder_layerdrop": 0.1}, r"config\.json sets encoder_layerdrop=0\.1, .* set it to 0"),
        ({"decoder_layerdrop": 0.1}, r"config\.json sets decoder_layerdrop=0\.1, .* set it to 0"),
        ({"max_source_positions": 750}, r"max_source_positions is 750 .* only models with 1500"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_passes_would_ignore_are_refused(
    wide_model: Path, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    model = with_settings(wide_model, tmp_path / "model", **settings)
    with pytest.raises(InputError, match=sentence):
        module_of(model)


def test_dropout_is_set_where_config_json_has_an_integer(wide_model: Path, tmp_path: Path) -> None:
    settings = {"dropout": 0, "attention_dropout": 0}
    module = module_of(with_settings(wide_model, tmp_path / "model", **settings), dropout=0.5)
    assert {m.dropout for m in module.whisper.modules() if hasattr(m, "dropout")} == {0.5}


def with_settings(model: Path, out: Path, **settings: Any) -> Path:
    """Copy a model's folder, with random weights and other settings in its config.json."""
    shutil.copytree(model, out)
    config = WhisperConfig.from_pretrained(model)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(out)
    return out
