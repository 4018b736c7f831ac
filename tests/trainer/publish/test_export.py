"""An exported model is a stock model folder, complete or absent."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
    pipeline,
)

from data.atomic_files import write_text
from data.audio.decode import load_audio
from data.errors import InputError
from data.utterance import Utterance
from eval.whisper import Whisper, load_whisper
from trainer.commands.publish import export_run
from trainer.config import Config
from trainer.publish.export import export, exported_step, restore, set_generation_config

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
    set_generation_config(whisper, [said("zh")])
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
    set_generation_config(whisper, [said("zh"), said("en")])
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


def test_a_full_disk_leaves_the_old_model_intact(
    whisper: Whisper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(whisper, tmp_path / "model", FACTS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.publish.export.write_json", full)
    with pytest.raises(OSError, match="No space"):
        export(whisper, tmp_path / "model", FACTS | {"step": 9})
    assert exported_step(tmp_path / "model") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_exported_weights_can_be_restored(whisper: Whisper, tmp_path: Path) -> None:
    export(whisper, tmp_path / "model", FACTS | {"error": None})
    was = whisper.model.proj_out.weight.clone()
    with torch.no_grad():
        whisper.model.proj_out.weight.zero_()
    restore(whisper, tmp_path / "model")
    assert torch.equal(whisper.model.proj_out.weight, was)
    assert whisper.model.proj_out.weight is whisper.model.model.decoder.embed_tokens.weight
    shutil.rmtree(tmp_path / "model")


def test_a_stock_pipeline_gives_the_same_transcripts(
    whisper: Whisper, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    set_generation_config(whisper, [said("en")])
    export(whisper, tmp_path / "model", FACTS)
    samples = load_audio(Utterance(id="a", audio=str(write_clip(tmp_path / "a.wav", 2.0)), text=""))
    heard = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"))
    greedy = {"num_beams": 1, "max_new_tokens": 8}
    text = heard(samples.numpy(), generate_kwargs=greedy)["text"]
    text = re.sub(r"<\|\w+\|>", "", text)  # a model that knows nothing says special tokens too
    extracted = whisper.processor(samples.numpy(), sampling_rate=16_000, return_tensors="pt")
    whisper.model.eval()
    ids = whisper.model.generate(extracted.input_features, language="en", **greedy)
    assert text == whisper.processor.batch_decode(ids, skip_special_tokens=True)[0]


def test_older_programs_find_their_files(whisper: Whisper, tmp_path: Path) -> None:
    folder, tokenizer = tmp_path / "model", whisper.processor.tokenizer
    export(whisper, folder, FACTS)
    told = {path.name: path for path in folder.iterdir()}
    extractor = WhisperFeatureExtractor.from_pretrained(told["preprocessor_config.json"])
    assert extractor.to_dict() == whisper.processor.feature_extractor.to_dict()
    known = json.loads(told["vocab.json"].read_text(encoding="utf-8"))
    known |= json.loads(told["added_tokens.json"].read_text(encoding="utf-8"))
    assert known == tokenizer.get_vocab()
    merges = told["merges.txt"].read_text(encoding="utf-8").splitlines()
    assert merges[0] == "#version: 0.2"
    assert len(merges) > 1
    assert all(len(pair.split(" ")) == 2 for pair in merges[1:])
    again = WhisperTokenizer.from_pretrained(folder)
    assert again("one two").input_ids == tokenizer("one two").input_ids
    assert again.normalize("The colour, twenty-one!") == "the color 21"
    for name in ("config.json", "generation_config.json"):
        assert "forced_decoder_ids" not in told[name].read_text(encoding="utf-8")


def test_fp16_halves_the_folder_and_keeps_the_model_in_memory(
    whisper: Whisper, tmp_path: Path
) -> None:
    was = {name: w.clone() for name, w in whisper.model.state_dict().items()}
    export(whisper, tmp_path / "whole", FACTS)
    export(whisper, tmp_path / "half", FACTS, "fp16")
    now = whisper.model.state_dict()
    assert all(torch.equal(w, now[name]) for name, w in was.items())
    whole, half = (load_file(tmp_path / each / "model.safetensors") for each in ("whole", "half"))
    assert whole.keys() == half.keys()
    assert all(torch.equal(w.half(), half[name]) for name, w in whole.items())
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "half", dtype="auto")
    assert model.dtype == torch.float16
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    restore(whisper, tmp_path / "half")
    assert whisper.model.dtype == torch.float32


def test_a_weight_too_large_for_fp16_is_an_input_error(whisper: Whisper, tmp_path: Path) -> None:
    export(whisper, tmp_path / "model", FACTS)
    with torch.no_grad():
        whisper.model.model.encoder.conv1.bias[0] = 1e5
    with pytest.raises(InputError, match=r"conv1\.bias has weights beyond 65,504.*precision=fp32"):
        export(whisper, tmp_path / "model", FACTS | {"step": 9}, "fp16")
    assert exported_step(tmp_path / "model") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def run(whisper: Whisper, tmp_path: Path) -> Path:
    """Return the folder of a finished run."""
    write_text(tmp_path / "run" / "config.yaml", Config().to_yaml())
    export(whisper, tmp_path / "run" / "model", FACTS)
    return tmp_path / "run"


def test_export_copies_a_model_in_fp16(run: Path) -> None:
    out = run.with_name("half")
    (run / "model" / "vocab.json").unlink()  # an earlier version wrote none
    knobs = ["--publish.precision=fp16", "--publish.licence=cc-by-4.0"]
    export_run([str(run), f"--out={out}", *knobs])
    assert WhisperForConditionalGeneration.from_pretrained(out, dtype="auto").dtype == torch.float16
    assert (out / "vocab.json").is_file()
    assert "license: cc-by-4.0" in (out / "README.md").read_text(encoding="utf-8")
    assert json.loads((run / "model" / "config.json").read_text())["dtype"] == "float32"
    with pytest.raises(InputError, match="half exists already: name a new folder"):
        export_run([str(run), f"--out={out}"])
    with pytest.raises(InputError, match="--out is not set"):
        export_run([str(run)])
    shutil.rmtree(run / "model")
    out.rename(run / "model")
    with pytest.raises(InputError, match="is in float16, whose lost precision cannot be restored"):
        export_run([str(run), f"--out={out}", "--publish.precision=fp32"])


def test_an_edited_card_is_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(run / "model" / "README.md", "mine")
    export_run([str(run), f"--out={run.with_name('copy')}", "--publish.licence=mit"])
    assert "README.md was edited" in capsys.readouterr().out
    assert (run.with_name("copy") / "README.md").read_text(encoding="utf-8") == "mine"


def test_a_full_disk_leaves_no_partial_copy(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.commands.publish.write_companions", full)
    with pytest.raises(InputError, match=r"no space left \(.*/copy\)"):
        export_run([str(run), f"--out={run.with_name('copy')}"])
    assert not list(run.parent.glob("*copy*"))
