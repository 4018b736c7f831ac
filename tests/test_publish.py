"""What leaves the run is a stock model folder, whole or absent."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from data.utterance import Utterance
from eval.whisper import Whisper, load_whisper
from trainer.publish import export, exported_step, restore, settle_generation

FACTS: dict[str, Any] = {
    "step": 5,
    "base_model": "openai/whisper-small",
    "languages": ["en"],
    "clips": 10,
    "hours": 0.5,
    "error": 0.123,
}


@pytest.fixture
def whisper(blank_model: Path) -> Whisper:
    """Return a small model, with the encoder that training uses."""
    return load_whisper(str(blank_model))


def said(language: str) -> Utterance:
    """Return an utterance in a language."""
    return Utterance(id=language, audio="", text="", language=language)


def test_stock_transformers_loads_it_and_generates(whisper: Whisper, tmp_path: Path) -> None:
    settle_generation(whisper, [said("zh")])
    export(whisper, tmp_path / "model", FACTS)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model")
    processor = WhisperProcessor.from_pretrained(tmp_path / "model")
    assert type(model.model.encoder).__name__ == "WhisperEncoder"
    assert model.config.architectures == ["WhisperForConditionalGeneration"]
    assert (model.generation_config.language, model.generation_config.task) == ("zh", "transcribe")
    assert getattr(model.generation_config, "forced_decoder_ids", None) is None
    tokens = model.generate(torch.zeros(1, 80, 3000), max_new_tokens=3)
    assert isinstance(processor.batch_decode(tokens)[0], str)


def test_several_languages_leave_the_choice_to_the_model(whisper: Whisper) -> None:
    settle_generation(whisper, [said("zh"), said("en")])
    assert whisper.model.generation_config.language is None


def test_a_new_model_replaces_the_old_one(whisper: Whisper, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert exported_step(folder) is None
    export(whisper, folder, FACTS)
    export(whisper, folder, FACTS | {"step": 9})
    assert exported_step(folder) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "12.30 %" in card
    assert "openai/whisper-small" in card


def test_a_full_disk_leaves_the_old_model_whole(
    whisper: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(whisper, tmp_path / "model", FACTS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.publish.write_json", full)
    with pytest.raises(OSError, match="No space"):
        export(whisper, tmp_path / "model", FACTS | {"step": 9})
    assert exported_step(tmp_path / "model") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_come_back(whisper: Whisper, tmp_path: Path) -> None:
    export(whisper, tmp_path / "model", FACTS | {"error": None})
    was = whisper.model.proj_out.weight.clone()
    with torch.no_grad():
        whisper.model.proj_out.weight.zero_()
    restore(whisper, tmp_path / "model")
    assert torch.equal(whisper.model.proj_out.weight, was)
    assert whisper.model.proj_out.weight is whisper.model.model.decoder.embed_tokens.weight
    shutil.rmtree(tmp_path / "model")
