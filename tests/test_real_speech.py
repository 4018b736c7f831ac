"""Tests on real recordings, in the folder that WHISPER_LOOP_REALDATA names."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import WhisperFeatureExtractor

from data.audio.decode import AudioError, decode, load_audio
from data.config import DataConfig
from data.corpora import read
from data.log_mel import HOP_LENGTH, LogMel, frames_of
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.screening.filters import count_reasons
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.half_precision import half_precision_copy
from eval.whisper import load_whisper

FOLDER = Path(os.environ.get("WHISPER_LOOP_REALDATA", "/nowhere"))

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="WHISPER_LOOP_REALDATA names no folder"),
]


def config(name: str, **knobs: Any) -> DataConfig:
    """Return knobs for a corpus."""
    return DataConfig(corpus=(str(FOLDER / name),), **knobs)


def test_a_corpus_of_real_speech_is_read_whole(blank_model: Path, tmp_path: Path) -> None:
    encoder = load_whisper(str(blank_model)).labels()
    cache = tmp_path / "cache.jsonl"
    manifest, drops = build_manifest(config("joined/en"), encoder, cache, show=False)
    reasons = count_reasons(drops)
    assert reasons.keys() <= {"train"}
    assert reasons["train"].keys() <= {"too long", "label too long"}
    assert len(manifest.train) + sum(reasons["train"].values()) == 307
    assert reasons["train"]["too long"] == 6
    assert (len(manifest.dev), len(manifest.test)) == (23, 44)
    tables = {u.id: u.seconds for u in read(config("joined/en"), "train+dev+test")}
    for u in manifest.train + manifest.dev + manifest.test:
        assert u.seconds == pytest.approx(tables[u.id], abs=0.06)
    assert {u.language for u in manifest.train} == {"en"}


def test_real_mandarin_is_read_as_zh() -> None:
    rows = list(read(config("prompts/zh-TW"), "train+dev+test"))
    assert len(rows) == 740
    assert {u.language for u in rows} == {"zh"}
    assert all(u.text and u.seconds for u in rows)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_of_real_mp3_equal_the_originals(n_mels: int) -> None:
    extractor, mel = WhisperFeatureExtractor(feature_size=n_mels), LogMel(n_mels)
    rows = [u for u in read(config("joined/en"), "test") if u.seconds < 30]
    for u in rows[:8]:
        wave = load_audio(u)
        found = extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        frames = frames_of(len(wave) / 16_000)
        short = torch.zeros(1, frames * HOP_LENGTH)
        short[0, : len(wave)] = wave
        torch.testing.assert_close(mel(short), found[..., :frames], atol=1e-4, rtol=0)


def test_half_a_real_mp3_is_truncated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for u in list(read(config("prompts/en"), "test"))[:5]:
        content = Path(u.audio).read_bytes()
        (tmp_path / "half.mp3").write_bytes(content[: len(content) // 2])
        if u.seconds > 1:
            with pytest.raises(AudioError, match="truncated"):
                decode(str(tmp_path / "half.mp3"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["prompts/en", "joined/en", "prompts/zh-TW"])
def test_little_of_a_real_epoch_is_padding(name: str) -> None:
    knobs = replace(config(name), update_clips=8)
    rows = [u for u in read(knobs, "train") if u.seconds < 30]
    plan = Plan.from_utterances(rows, knobs, seed=0)
    passes = list(BucketedBatchSampler(plan, knobs, updates=plan.num_updates(1)))
    held = sum(draw.frames for each in passes for draw in each)
    padding = 1 - sum(u.seconds for u in rows) * 100 / held
    ratio = len(passes) / plan.num_updates(1)
    print(f"padding: {padding:.1%} of what is computed, {ratio:.1f} passes")
    assert padding < 0.05


@pytest.mark.skipif("WHISPER_LOOP_MODEL" not in os.environ, reason="WHISPER_LOOP_MODEL names none")
def test_bf16_hears_nearly_the_same_texts_as_float32() -> None:
    # tiny.en on prompts/en: 99 of 103 texts, and the same WER (docs/decoding.md)
    accelerator = Accelerator(cpu=True)
    whisper = load_whisper(os.environ["WHISPER_LOOP_MODEL"])
    rows = list(read(config("prompts/en"), "test"))[:24]
    texts = []
    for precision in ("no", "bf16"):
        model = half_precision_copy(whisper, precision)
        scorer = Evaluator(
            accelerator=accelerator, whisper=model, data=DataConfig(workers=0), config=EvalConfig()
        )
        texts.append([h.text for h in scorer.evaluate(rows, precision)[1]])
    same = sum(a == b for a, b in zip(*texts, strict=True))
    assert same >= 0.9 * len(rows)
