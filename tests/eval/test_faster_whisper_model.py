"""A model converted for CTranslate2 is scored as faster-whisper decodes it."""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import eval.__main__ as command
from data.audio.decode import load_audio
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.corpora import read
from data.errors import InputError
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.faster_whisper_model import (
    FasterWhisperModel,
    is_faster_whisper_model,
    load_faster_whisper_model,
)
from eval.probes.noise_clips import SOUNDS, transcribe_noise
from eval.transcribe.command import TranscribeCommand, transcribe_files
from eval.whisper import load_whisper
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model
from trainer.publish.export import export

CONFIG = EvalConfig(max_length=12)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory, tone_corpus: Path) -> Path:
    """Return a model whose clips have texts of their own; CTranslate2 takes it for English-only."""
    out = tmp_path_factory.mktemp("model") / "english"
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
    make_tiny_model(
        TinyModelConfig(out=str(out), corpus=(str(tone_corpus),), init_std=0.3, **shape)
    )
    path = out / "generation_config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["is_multilingual"] = False  # its vocabulary is too small for what decides there
    del told["lang_to_id"], told["task_to_id"]
    path.write_text(json.dumps(told), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def converted(english: Path) -> Path:
    """Return it, converted."""
    reason = "the extra ct2 is not installed"
    pytest.importorskip("faster_whisper", reason=reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the converter uses
        from ctranslate2.converters import TransformersConverter

        out = english.parent / "converted"
        converter = TransformersConverter(str(english), copy_files=["tokenizer.json"])
        converter.convert(str(out))
    return out


@pytest.fixture
def ct2(converted: Path) -> FasterWhisperModel:
    """Return the converted model, loaded."""
    return load_faster_whisper_model(str(converted), CONFIG)


@pytest.fixture
def rows(tone_corpus: Path) -> list[Utterance]:
    """Return the test split."""
    return list(read(DataConfig(corpus=(str(tone_corpus),)), "test"))


def test_a_converted_folder_is_recognized_by_model_bin(blank_model: Path, tmp_path: Path) -> None:
    assert not is_faster_whisper_model(str(blank_model))
    assert not is_faster_whisper_model("openai/whisper-tiny")
    (tmp_path / "model.bin").touch()
    assert is_faster_whisper_model(str(tmp_path))


def test_a_converted_model_gives_the_same_texts_as_the_original(
    ct2: FasterWhisperModel, english: Path, rows: list[Utterance]
) -> None:
    from faster_whisper.audio import pad_or_trim  # pads features with 0, not with silence

    whisper = load_whisper(str(english))
    whisper.model.eval()
    scores, heard = ct2.evaluate(rows, "")
    for u, h in zip(rows, heard, strict=True):
        features = pad_or_trim(ct2.model.feature_extractor(load_audio(u).numpy())[:, :-1])
        ids = whisper.model.generate(torch.from_numpy(features)[None], max_length=12)
        mine = whisper.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
        assert h.text == mine
    assert len({h.text for h in heard}) > 3  # else the comparison would say little
    assert all(h.truncated for h in heard)  # it never ends
    assert [group.clips for group in scores.groups] == [len(rows)]


@pytest.mark.parametrize("knobs", [{"fallback": True}, {"timestamps": True}, {"num_beams": 2}])
def test_eval_knobs_apply_and_decoding_is_reproducible(
    knobs: dict[str, Any], converted: Path, rows: list[Utterance]
) -> None:
    config = replace(CONFIG, max_length=6, **knobs)
    first, second = (
        load_faster_whisper_model(str(converted), config).evaluate(rows[:2], "")[1]
        for _ in range(2)
    )
    assert first == second
    assert all(h.tokens <= 6 for h in first)


def test_long_audio_and_noise_are_transcribed_too(
    ct2: FasterWhisperModel, rows: list[Utterance], tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    path = write_clip(tmp_path / "long.wav", 31.0)
    long = replace(rows[0], id="long", audio=str(path), seconds=31.0)
    scores, heard = ct2.evaluate([rows[0], long], "")
    assert [group.clips for group in scores.groups + scores.long] == [1, 1]
    assert [h.utterance.id for h in transcribe_noise(ct2, heard, true_length=False)] == list(SOUNDS)


def test_the_command_scores_it(
    converted: Path,
    tone_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(converted), str(tone_corpus), f"--out={tmp_path}", "--eval.max_length=4"]
    monkeypatch.setattr(sys, "argv", ["eval", *arguments])
    command.main()
    assert "12 clips of silence and noise" in capsys.readouterr().out
    told = json.loads((tmp_path / "converted-en-test" / "scores.json").read_text())
    assert told["languages"]["en"]["clips"] == 6
    assert told["meters"]["noise"]["clips"] == 12


def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(InputError, match=r'CTranslate2.* pip install "whisper-loop\[ct2\]"'):
        load_faster_whisper_model(str(tmp_path), CONFIG)


def test_an_incomplete_folder_is_an_input_error(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.bin but no config\.json: convert it again"):
        load_faster_whisper_model(str(tmp_path), CONFIG)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (tmp_path / name).write_bytes((converted / name).read_bytes())
    with pytest.raises(InputError, match="cannot be loaded: "):
        load_faster_whisper_model(str(tmp_path), CONFIG)


def test_true_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"eval\.pad=bucket: .* faster-whisper, which pads every clip"
    ):
        load_faster_whisper_model(str(tmp_path), replace(CONFIG, pad="bucket"))


def test_labels_know_the_models_language(ct2: FasterWhisperModel) -> None:
    labels = ct2.labels()
    assert len(labels.encode("one two", "en")) == labels.count_tokens(["one two"], ["en"])[0]
    with pytest.raises(InputError, match="English-only"):
        labels.prefix("zh")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_faster_whisper_and_a_stock_pipeline_agree_on_an_exported_model(
    english: Path, precision: Any, tmp_path: Path, rows: list[Utterance]
) -> None:
    faster_whisper = pytest.importorskip("faster_whisper", reason="the extra ct2 is not installed")
    facts = {"step": 1, "base_model": "a", "languages": ["en"], "clips": 1, "hours": 1}
    folder = tmp_path / "run" / "model"
    export(load_whisper(str(english)), folder, facts | {"error": None}, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the converter uses
        from ctranslate2.converters import TransformersConverter

        files = ["tokenizer.json", "preprocessor_config.json"]
        TransformersConverter(str(folder), copy_files=files).convert(str(tmp_path / "converted"))
    model = faster_whisper.WhisperModel(str(tmp_path / "converted"), compute_type="float32")
    heard = pipeline("automatic-speech-recognition", model=str(folder), dtype=torch.float32)
    said = []
    for u in rows:  # of 30 s, since the two pad with different silences
        samples = torch.cat([load_audio(u)] * 50)[:480_000].numpy()
        greedy = {"num_beams": 1, "max_new_tokens": 6}
        said.append(heard(samples, generate_kwargs=greedy)["text"].strip())
        segments, _ = model.transcribe(
            samples, beam_size=1, temperature=0.0, max_new_tokens=10, without_timestamps=True
        )  # CTranslate2 makes half of these and of the prompt
        assert "".join(segment.text for segment in segments).strip() == said[-1]
    assert len(set(said)) > 2  # else the comparison would say little


def test_files_are_transcribed_with_timestamps(
    converted: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    long = write_clip(tmp_path / "clips" / "long.wav", 31.0)
    write_clip(tmp_path / "clips" / "short.wav", 2.0)
    out = tmp_path / "out"
    arguments = [str(long.parent), f"--model={converted}", f"--out={out}", "--format=json"]
    transcribe_files(parse_dataclass(TranscribeCommand, [*arguments, "--eval.max_length=16"]))
    for name, seconds in (("long", 31.0), ("short", 2.0)):
        told = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        assert (told["seconds"], told["language"]) == (seconds, "en")
        edges = [each[edge] for each in told["segments"] for edge in ("start", "end")]
        assert edges == sorted(edges)
        assert edges[-1] <= seconds
