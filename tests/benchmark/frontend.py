"""How fast audio becomes features on one core: each stage, and beside it what others use.

    python tests/benchmark/frontend.py --corpus=CORPUS --out=frontend.json

The clips of a corpus are written anew in each format, so that all rows hold the same speech.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import soundfile
import torch
from measure import screen, surroundings
from rich.table import Table
from torch import Tensor
from torchaudio.transforms import Resample
from transformers import WhisperFeatureExtractor

from data.atomic_files import write_json
from data.audio.decode import decode, load_audio
from data.audio.resample import resampler
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.corpora import read
from data.errors import plain_errors
from data.log_mel import SAMPLE_RATE, LogMel
from data.sampling.padded_length import padded_frames
from data.utterance import Utterance

FORMATS = ((48_000, "mp3"), (44_100, "mp3"), (44_100, "wav"), (16_000, "flac"), (16_000, "wav"))
COLUMNS = (
    ("decoding", "soundfile"),
    ("resampling", "ours"),
    ("resampling", "torchaudio"),
    ("resampling", "soxr"),
    ("log-mel", "ours"),
    ("log-mel", "transformers, 30 s"),
    ("all", "ours"),
)
REPEATS = 3  # of everything, in turn; the best counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Time the way from a file to features, on one core."""

    corpus: str  # a folder in any layout that data.corpus takes
    split: str = "test"
    clips: int = 100  # at most
    out: str | None = None  # a JSON file to write


def main() -> None:
    """Measure, show, and write."""
    with plain_errors(), tempfile.TemporaryDirectory() as folder:
        command = parse_dataclass(Command, sys.argv[1:])
        torch.set_num_threads(1)
        rows = []
        for rate, suffix in FORMATS:
            clips = written(command, Path(folder), rate, suffix)
            rows.append({"source": f"{rate / 1000:g} kHz {suffix}", **measured(clips, rate)})
        told = {"surroundings": surroundings(), "audio_seconds_per_second": rows}
        if command.out is not None:
            write_json(Path(command.out), told)
        screen().print(table(rows))


def written(command: Command, folder: Path, rate: int, suffix: str) -> list[Utterance]:
    """Write a corpus's clips anew, at a rate and in a format."""
    config = DataConfig(corpus=(command.corpus,), language=("en",))
    clips = []
    for number, u in enumerate(read(config, command.split)):
        if number == command.clips:
            break
        samples, source = decode(u.audio, u.start, u.end)
        path = folder / f"{number}-{rate}.{suffix}"
        converted = samples if source == rate else Resample(source, rate)(samples)
        soundfile.write(path, converted.clamp(-1, 1).numpy(), rate)
        seconds = len(converted) / rate
        if seconds < 30:
            clips.append(Utterance(id=path.name, audio=str(path), text="", seconds=seconds))
    return clips


def measured(clips: Sequence[Utterance], rate: int) -> dict[str, float | None]:
    """Return audio seconds a second of each stage; None where there is nothing to do."""
    raw = [decode(u.audio)[0] for u in clips]
    audio = [load_audio(u) for u in clips]
    frames = [padded_frames(u.seconds) for u in clips]
    mel, theirs = LogMel(80), WhisperFeatureExtractor()
    torchaudios = Resample(rate, SAMPLE_RATE)
    soxr = _soxr(rate)

    def features(waveform: Tensor, frames: int) -> Tensor:
        held: Tensor = mel(
            torch.nn.functional.pad(waveform, (0, frames * 160 - len(waveform)))[None]
        )
        return held

    def whole() -> None:
        for u, n in zip(clips, frames, strict=True):
            features(load_audio(u), n)

    stages: dict[str, Callable[[], Any] | None] = {
        "decoding, soundfile": lambda: [decode(u.audio) for u in clips],
        "log-mel, ours": lambda: [features(a, n) for a, n in zip(audio, frames, strict=True)],
        "log-mel, transformers, 30 s": lambda: [
            theirs(a.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="np") for a in audio
        ],
        "all, ours": whole,
    }
    if rate != SAMPLE_RATE:
        stages["resampling, ours"] = lambda: [resampler(rate)(a) for a in raw]
        stages["resampling, torchaudio"] = lambda: [torchaudios(a) for a in raw]
        if soxr is not None:
            stages["resampling, soxr"] = lambda: [soxr(a) for a in raw]
    best = dict.fromkeys(stages, float("inf"))
    for _ in range(REPEATS):
        for name, stage in stages.items():
            started = time.perf_counter()
            stage()
            best[name] = min(best[name], time.perf_counter() - started)
    seconds = sum(u.seconds for u in clips)
    return {name: seconds / spent for name, spent in best.items()}


def _soxr(rate: int) -> Callable[[Tensor], Any] | None:
    try:
        import soxr
    except ImportError:  # not a dependency: pip install soxr to have its column
        return None
    return lambda samples: soxr.resample(samples.numpy(), rate, SAMPLE_RATE)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return one line a format."""
    shown = Table(title="audio seconds a second, on one core", title_justify="left")
    shown.add_column("source")
    for stage, whose in COLUMNS:
        shown.add_column(f"{stage}\n{whose}", justify="right")
    for row in rows:
        figures = [row.get(f"{stage}, {whose}") for stage, whose in COLUMNS]
        shown.add_row(row["source"], *("" if f is None else f"{f:,.0f}" for f in figures))
    return shown


if __name__ == "__main__":
    main()
