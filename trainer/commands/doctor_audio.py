"""The doctor's checks of what audio and texts go through, each against what is known."""

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

# soundfile's names; a lossy format may differ from the tone by so much of its level
FORMATS: dict[str, tuple[dict[str, Any], float]] = {
    "wav": ({"format": "WAV"}, 1e-3),
    "flac": ({"format": "FLAC"}, 1e-3),
    "ogg": ({"format": "OGG", "subtype": "VORBIS"}, 0.1),
    "opus": ({"format": "OGG", "subtype": "OPUS"}, 0.1),
    "mp3": ({"format": "MP3"}, 0.1),
}
RATES = (8_000, 44_100, 48_000)  # Hz
HERTZ = 440.0
CLOSE = 1e-4  # as much may features and resampled audio differ
REINSTALL = "pip install --force-reinstall"


def _tone(rate: int, seconds: float = 1.0) -> Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * math.pi * HERTZ * time)).float()


def decoded(name: str, folder: Path) -> CheckResult:
    """Write a tone in a format, decode it, and compare."""
    options, most = FORMATS[name]
    path, tone = folder / f"tone.{name}", _tone(48_000)
    soundfile.write(path, tone.numpy(), 48_000, **options)
    samples, rate = decode(str(path))
    level = float(samples[4_800:-4_800].square().mean().sqrt() / tone.square().mean().sqrt())
    pitch = float(torch.fft.rfft(samples[:rate]).abs().argmax())
    right = abs(level - 1) <= most and pitch == HERTZ and abs(len(samples) / rate - 1) < 0.12
    told = f"{len(samples) / rate:.2f} s of 1.00 s, {pitch:.0f} Hz, level {level:.3f}"
    return CheckResult(right, told, "" if right else f"{REINSTALL} soundfile")


def resampled(rate: int) -> CheckResult:
    """Resample a tone, and compare it with the tone at 16 kHz."""
    found, exact = resampler(rate)(_tone(rate)), _tone(SAMPLE_RATE)
    middle = slice(SAMPLE_RATE // 4, 3 * SAMPLE_RATE // 4)
    worst = float((found[middle] - exact[middle]).abs().max())
    right = worst < 10 * CLOSE
    return CheckResult(
        right, f"off by {worst:.1e} at most", "" if right else f"{REINSTALL} torchaudio"
    )


def mel() -> CheckResult:
    """Compare features of noise with those of transformers' extractor."""
    noise = 0.1 * torch.randn(1, 300 * HOP_LENGTH, generator=torch.Generator().manual_seed(0))
    theirs = WhisperFeatureExtractor()(noise[0].numpy(), sampling_rate=SAMPLE_RATE)
    features = torch.as_tensor(theirs["input_features"])[..., :300]
    worst = float((LogMel(80)(noise) - features).abs().max())
    right = worst < CLOSE
    told = f"off by {worst:.1e} at most from transformers' extractor"
    return CheckResult(right, told, "" if right else f"{REINSTALL} transformers torchaudio")


def tokenizer(model: str | None, folder: Path) -> CheckResult:
    """Look whether labels begin with one start token, and it is the decoder's."""
    whisper = _whisper(model, folder)
    encoder, config = whisper.labels(), whisper.model.config
    ids = encoder.encode("one two", "en")
    right = ids.count(encoder.start_id) == 1 and ids[0] == config.decoder_start_token_id
    right &= ids[-1] == config.eos_token_id and max(ids) < config.vocab_size
    told = f"{whisper.name}: {len(ids)} ids, from {ids[0]} to {ids[-1]}"
    remedy = "" if right else "take the tokenizer that came with the model"
    return CheckResult(bool(right), told, remedy)


def generation(model: str | None, folder: Path) -> CheckResult:
    """Save what generate() is told, and look whether it comes back."""
    whisper = _whisper(model, folder)
    set_generation_config(whisper, [Utterance(id="", audio="", text="", language="en")])
    config = whisper.model.generation_config
    config.save_pretrained(folder / "generation")
    again = GenerationConfig.from_pretrained(folder / "generation")
    wrong = [
        key
        for key in ("language", "task", "no_timestamps_token_id", "decoder_start_token_id")
        if getattr(config, key, None) != getattr(again, key, None)
    ]
    told = f"{', '.join(wrong)} did not come back" if wrong else "comes back as it was saved"
    return CheckResult(not wrong, told, f"{REINSTALL} transformers" if wrong else "")


def _whisper(model: str | None, folder: Path) -> Whisper:
    """Load the model that was named, or make a small one."""
    if model is not None:
        return load_whisper(model)
    blank, texts = folder / "blank", folder / "texts" / "train.jsonl"
    if not blank.exists():
        write_jsonl(texts, [{"path": "a.wav", "text": "one two three", "language": "en"}])
        make_tiny_model(TinyModelConfig(out=str(blank), corpus=(str(texts.parent),)))
    return load_whisper(str(blank))
