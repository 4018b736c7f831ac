"""Loading a Whisper model, encoding short audio, and saving a stock checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from data.errors import InputError
from eval.whisper import TrueLengthEncoder, Whisper, load_whisper


@pytest.fixture
def whisper(blank_model: Path) -> Whisper:
    """Return a small model, ready to use."""
    whisper = load_whisper(str(blank_model))
    whisper.model.eval()
    return whisper


@pytest.fixture
def model_copy(blank_model: Path, tmp_path: Path) -> Path:
    """Return a copy of a model's folder, to be broken."""
    return Path(shutil.copytree(blank_model, tmp_path / "broken"))


def stock(folder: Path) -> Any:
    """Return the model as transformers alone loads it."""
    return WhisperForConditionalGeneration.from_pretrained(folder).eval()


def edit(file: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@torch.no_grad()
def test_a_full_window_is_encoded_as_the_stock_encoder_does(
    whisper: Whisper, blank_model: Path
) -> None:
    features = torch.randn(2, 80, 3000, generator=torch.manual_seed(0))
    ours = whisper.model.model.encoder(features).last_hidden_state
    theirs = stock(blank_model).model.encoder(features).last_hidden_state
    assert ours.shape == (2, 1500, 32)
    assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("frames", [2, 16, 304, 2984])
def test_short_audio_is_encoded_as_by_a_stock_encoder_with_fewer_positions(
    frames: int, whisper: Whisper
) -> None:
    features = torch.randn(2, 80, frames, generator=torch.manual_seed(0))
    encoder = whisper.model.model.encoder
    config = type(whisper.model.config).from_dict(
        {**whisper.model.config.to_dict(), "max_source_positions": frames // 2}
    )
    short = WhisperEncoder(config).eval()
    weights = encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: frames // 2]
    short.load_state_dict(weights)
    ours = encoder(features).last_hidden_state
    assert ours.shape == (2, frames // 2, 32)
    torch.testing.assert_close(ours, short(features).last_hidden_state)


def test_the_stock_encoder_would_refuse_short_audio(blank_model: Path) -> None:
    with pytest.raises(ValueError, match="length 3000"):
        stock(blank_model).model.encoder(torch.zeros(1, 80, 304))


def test_a_saved_model_is_stock(whisper: Whisper, blank_model: Path, tmp_path: Path) -> None:
    assert isinstance(whisper.model.model.encoder, TrueLengthEncoder)
    whisper.model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["WhisperForConditionalGeneration"]
    assert config["model_type"] == "whisper"
    assert "TrueLength" not in json.dumps(config)
    ours, theirs = stock(tmp_path / "saved").state_dict(), stock(blank_model).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_are_loaded_in_float32(model_copy: Path) -> None:
    stock(model_copy).half().save_pretrained(model_copy)
    assert {p.dtype for p in load_whisper(str(model_copy)).model.parameters()} == {torch.float32}


def test_properties_of_a_model(whisper: Whisper, model_copy: Path) -> None:
    assert (whisper.multilingual, whisper.n_mels) == (True, 80)
    assert whisper.labels().max_tokens == 448
    edit(model_copy / "generation_config.json", is_multilingual=False)
    english = load_whisper(str(model_copy))
    assert not english.multilingual
    assert not english.labels().multilingual


def test_multilingual_falls_back_to_the_vocabulary_size(whisper: Whisper) -> None:
    whisper.model.generation_config.is_multilingual = None
    for size, multilingual in ((51864, False), (51865, True), (51866, True)):
        whisper.model.config.vocab_size = size
        assert whisper.multilingual is multilingual


def refused(name: str | Path, sentence: str) -> None:
    """Expect one sentence that names the model."""
    with pytest.raises(InputError, match=sentence) as told:
        load_whisper(str(name))
    assert str(told.value).startswith(f"model {str(name)!r}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["/no/such", "./no", "~/no", "a/b/c"])
def test_a_missing_folder_is_an_input_error(name: str) -> None:
    refused(name, "no such folder; set model.name to one, or to a Hub name")


@pytest.mark.parametrize("name", ["nobody/nothing", "runs/no-such-run", "a b"])
def test_an_unavailable_name_is_an_input_error(name: str) -> None:
    refused(name, "cannot be loaded: .+")


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer"),
        ("processor_config.json", "preprocessor"),
        ("model.safetensors", "weights"),
    ],
)
def test_a_missing_part_is_named(file: str, part: str, model_copy: Path) -> None:
    (model_copy / file).unlink()
    refused(model_copy, rf"the folder has no {part} \(.*save_pretrained\(\)")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "processor_config.json"])
def test_a_broken_file_is_an_input_error(file: str, model_copy: Path) -> None:
    (model_copy / file).write_text("{")
    refused(model_copy, "cannot be loaded: .+")


def test_a_tokenizer_of_another_model_is_an_input_error(model_copy: Path) -> None:
    edit(model_copy / "config.json", decoder_start_token_id=3)
    refused(
        model_copy, r"<\|startoftranscript\|> is token \d+ in its tokenizer, and 3 in its config"
    )


def cut(folder: Path) -> None:
    """Lose half of the weights' bytes, as a copy to a full disk does."""
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    """Lose all of them."""
    (folder / "model.safetensors").write_bytes(b"")


def encoder_only(folder: Path) -> None:
    """Keep the encoder: transformers would draw the decoder at random, and say so in a warning."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if ".decoder." not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def other_size(folder: Path) -> None:
    """Say that the model is wider than its weights."""
    edit(folder / "config.json", d_model=64)


def other_kind(folder: Path) -> None:
    """Say that it is no Whisper."""
    edit(folder / "config.json", model_type="bert", architectures=["BertModel"])


@pytest.mark.parametrize("damage", [cut, empty, encoder_only, other_size, other_kind])
def test_weights_of_another_model_are_an_input_error(
    damage: Callable[[Path], None], model_copy: Path
) -> None:
    damage(model_copy)
    refused(model_copy, "weights|cannot be loaded|not a")
