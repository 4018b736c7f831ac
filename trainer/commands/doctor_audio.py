"""Checks of `doctor` for decoding, resampling, features, tokenizer and generation config."""

import math
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor
from transformers import GenerationConfig, WhisperFeatureExtractor

from data.atomic_files import write_jsonl
from data.audio.decode import decode
from data.audio.resample import resampler
from data.log_mel import HOP_LENGTH, SAMPLE_RATE, LogMel
from data.utterance import Utterance
from eval.whisper import Whisper, load_whisper
from trainer.commands.doctor_machine import CheckResult
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model
from trainer.publish.export import set_generation_config

# format → soundfile's options, largest relative error of the level
FORMATS: dict[str, tuple[dict[str, Any], float]] = {
    "wav": ({"format": "WAV"}, 1e-3),
    "flac": ({"format": "FLAC"}, 1e-3),
    "ogg": ({"format": "OGG", "subtype": "VORBIS"}, 0.1),
    "opus": ({"format": "OGG", "subtype": "OPUS"}, 0.1),
    "mp3": ({"format": "MP3"}, 0.1),
}
RATES = (8_000, 44_100, 48_000)  # Hz
TONE_HERTZ = 440.0
TOLERANCE = 1e-4  # of features; ten times as much for resampled audio
REINSTALL = "pip install --force-reinstall"


def _tone(rate: int, seconds: float = 1.0) -> Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * math.pi * TONE_HERTZ * time)).float()


def decoding(name: str, folder: Path) -> CheckResult:
    """Check that a tone written in a format decodes to the same level, pitch and length."""
    options, tolerance = FORMATS[name]
    path, tone = folder / f"tone.{name}", _tone(48_000)
    soundfile.write(path, tone.numpy(), 48_000, **options)
    samples, rate = decode(str(path))
    level = float(samples[4_800:-4_800].square().mean().sqrt() / tone.square().mean().sqrt())
    pitch = float(torch.fft.rfft(samples[:rate]).abs().argmax())
    ok = abs(level - 1) <= tolerance and pitch == TONE_HERTZ
    ok &= abs(len(samples) / rate - 1) < 0.12
    finding = f"{len(samples) / rate:.2f} s of 1.00 s, {pitch:.0f} Hz, level {level:.3f}"
    return CheckResult(ok, finding, "" if ok else f"{REINSTALL} soundfile")


def resampling(rate: int) -> CheckResult:
    """Check that a resampled tone equals the tone at 16 kHz."""
    resampled, exact = resampler(rate)(_tone(rate)), _tone(SAMPLE_RATE)
    middle = slice(SAMPLE_RATE // 4, 3 * SAMPLE_RATE // 4)
    error = float((resampled[middle] - exact[middle]).abs().max())
    ok = error < 10 * TOLERANCE
    remedy = "" if ok else f"{REINSTALL} torchaudio"
    return CheckResult(ok, f"largest error {error:.1e}", remedy)


def log_mel() -> CheckResult:
    """Check that features of noise equal those of transformers' feature extractor."""
    noise = 0.1 * torch.randn(1, 300 * HOP_LENGTH, generator=torch.Generator().manual_seed(0))
    stock = WhisperFeatureExtractor()(noise[0].numpy(), sampling_rate=SAMPLE_RATE)
    features = torch.as_tensor(stock["input_features"])[..., :300]
    error = float((LogMel(80)(noise) - features).abs().max())
    ok = error < TOLERANCE
    finding = f"largest difference to transformers' feature extractor {error:.1e}"
    return CheckResult(ok, finding, "" if ok else f"{REINSTALL} transformers torchaudio")


def tokenizer(model: str | None, folder: Path) -> CheckResult:
    """Check that labels begin with exactly one start token, the decoder's, and end with eos."""
    whisper = _load(model, folder)
    labels, config = whisper.labels(), whisper.model.config
    ids = labels.encode("one two", "en")
    ok = ids.count(labels.start_id) == 1 and ids[0] == config.decoder_start_token_id
    ok &= ids[-1] == config.eos_token_id and max(ids) < config.vocab_size
    finding = f"{whisper.name}: {len(ids)} ids, from {ids[0]} to {ids[-1]}"
    remedy = "" if ok else "use the tokenizer that came with the model"
    return CheckResult(bool(ok), finding, remedy)


def generation_config(model: str | None, folder: Path) -> CheckResult:
    """Check that the generation config is the same after saving and loading."""
    whisper = _load(model, folder)
    set_generation_config(whisper, [Utterance(id="", audio="", text="", language="en")])
    config = whisper.model.generation_config
    config.save_pretrained(folder / "generation")
    loaded = GenerationConfig.from_pretrained(folder / "generation")
    changed = [
        key
        for key in ("language", "task", "no_timestamps_token_id", "decoder_start_token_id")
        if getattr(config, key, None) != getattr(loaded, key, None)
    ]
    finding = f"{', '.join(changed)} changed" if changed else "unchanged after saving and loading"
    return CheckResult(not changed, finding, f"{REINSTALL} transformers" if changed else "")


def _load(model: str | None, folder: Path) -> Whisper:
    """Load the named model, or create and load a tiny one."""
    if model is not None:
        return load_whisper(model)
    blank, texts = folder / "blank", folder / "texts" / "train.jsonl"
    if not blank.exists():
        write_jsonl(texts, [{"path": "a.wav", "text": "one two three", "language": "en"}])
        make_tiny_model(TinyModelConfig(out=str(blank), corpus=(str(texts.parent),)))
    return load_whisper(str(blank))
