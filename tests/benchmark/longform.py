"""What training with and without timestamps does to recordings of minutes.

    python tests/benchmark/longform.py --model=tiny.en --corpus=FOLDER/prompts/en

Held-out clips are joined, with pauses, into recordings whose boundaries are known; stock generate()
transcribes them window by window. docs/results.md has the figures.
"""

import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import torch
from measure import launch, screen
from rich.table import Table
from torch import Tensor

from data.atomic_files import write_json
from data.audio.decode import load_audio
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.errors import plain_errors
from data.log_mel import SAMPLE_RATE
from data.manifest import read_held_out, scan_cache_path
from data.utterance import Utterance
from eval.metrics.normalize import normalizer_for
from eval.metrics.units import unit_of
from eval.metrics.wer import character_errors, word_errors
from eval.whisper import Whisper, load_whisper

LENGTHS = (120.0, 300.0)  # seconds of a recording
PAUSES = (0.3, 1.5)  # seconds between two clips
NEAR = 0.3  # seconds within which a boundary counts as found
WAYS = (
    ("without timestamps", ()),
    ("with timestamps in half", ("--data.timestamp_probability=0.5",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Train packed, with and without timestamps, and transcribe long recordings."""

    model: str  # a folder, or a name on the Hub
    corpus: str  # in any layout that data.corpus takes
    language: str = "en"  # Whisper's code
    updates: int = 60  # of 8 clips
    out: str = "runs/longform"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """Clips, one after another."""

    audio: Tensor  # (samples,)
    text: str
    spans: list[tuple[float, float]]  # where each clip begins and ends, in seconds


def main() -> None:
    """Train, transcribe, write and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        recordings = list(join(held_out(command)))
        told = {"before": heard(load_whisper(command.model), recordings, command.language)}
        for name, knobs in WAYS:
            folder = train(command, name, knobs)
            told[name] = heard(load_whisper(str(folder)), recordings, command.language)
        write_json(Path(command.out) / "longform.json", told)
        screen().print(shown(told, recordings))


def held_out(command: Command) -> list[Utterance]:
    """Return the clips of dev and test."""
    data = DataConfig(corpus=(command.corpus,), language=(command.language,))
    encoder, cache = load_whisper(command.model).labels(), scan_cache_path(Path(command.out), data)
    splits = [read_held_out(data, encoder, cache, split=s, show=False)[0] for s in ("dev", "test")]
    return list(chain(*splits))


def join(clips: Sequence[Utterance]) -> Iterator[Recording]:
    """Join clips in any order into recordings; what is left and too short for one is left out."""
    draw = random.Random(0)
    rest = draw.sample(clips, len(clips))
    while rest:
        length, parts, texts, spans, at = draw.uniform(*LENGTHS), [], [], [], 0.0
        while rest and at < length:
            clip, samples = rest.pop(), round(draw.uniform(*PAUSES) * SAMPLE_RATE)
            audio = load_audio(clip)
            parts += [audio, torch.zeros(samples)]
            texts.append(clip.text)
            spans.append((at, at + len(audio) / SAMPLE_RATE))
            at = spans[-1][1] + samples / SAMPLE_RATE
        if at >= LENGTHS[0]:
            yield Recording(audio=torch.cat(parts), text=" ".join(texts), spans=spans)


def train(command: Command, name: str, knobs: Sequence[str]) -> Path:
    """Train a model, and return its folder."""
    folder = Path(command.out).absolute() / name.replace(" ", "-")
    arguments = [
        f"--run_dir={folder}",
        "--resume=auto",
        "--precision=fp32",
        f"--model.name={command.model}",
        f"--data.corpus={command.corpus}",
        f"--data.language={command.language}",
        "--data.pad=packed",
        "--data.update_clips=8",
        "--data.dev_split=None",
        "--data.test_split=None",
        "--optim.lr=1e-5",
        "--optim.warmup=20",
        f"--loop.max_steps={command.updates}",
        "--loop.stall_seconds=0",  # a benchmark may be suspended
        *knobs,
    ]
    launch(["trainer/main.py", *arguments], threads=os.cpu_count() or 1)
    return folder / "model"


def heard(whisper: Whisper, recordings: Sequence[Recording], language: str) -> dict[str, Any]:
    """Transcribe recordings, and compare texts and times with what is known."""
    clean, unit = normalizer_for("basic", language).apply, unit_of(language)
    count = word_errors if unit == "word" else character_errors
    segments = [transcribe(whisper, each.audio, language) for each in recordings]
    texts = [" ".join(text for text, _, _ in each) for each in segments]
    errors = count([clean(each.text) for each in recordings], [clean(text) for text in texts])
    distances: list[float] = []
    idle = 0.0
    for each, recording in zip(segments, recordings, strict=True):
        times = [time for _, *span in each for time in span]
        known = chain(*recording.spans)
        distances += [min((abs(t - k) for t in times), default=30.0) for k in known]
        idle += sum(_unspoken(start, end, recording.spans) for _, start, end in each)
    return {
        "error": errors.rate,
        "segments": sum(map(len, segments)),
        "boundary_median_seconds": statistics.median(distances),
        "boundaries_found": sum(d <= NEAR for d in distances) / len(distances),
        "seconds_in_pauses": idle,
    }


def transcribe(whisper: Whisper, audio: Tensor, language: str) -> list[tuple[str, float, float]]:
    """Return what stock generate() hears: texts, and where they begin and end, in seconds."""
    processor = whisper.processor
    inputs = processor(
        audio.numpy(),
        sampling_rate=SAMPLE_RATE,
        truncation=False,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    options: dict[str, Any] = {"return_timestamps": True, "return_segments": True}
    if whisper.multilingual:
        options |= {"language": language, "task": "transcribe"}
    with torch.inference_mode():
        (found,) = whisper.model.generate(**inputs, **options)["segments"]
    decode = processor.tokenizer.decode
    return [
        (decode(each["tokens"], skip_special_tokens=True), float(each["start"]), float(each["end"]))
        for each in found
    ]


def _unspoken(start: float, end: float, spans: Sequence[tuple[float, float]]) -> float:
    """Return the seconds of a segment in which nobody speaks."""
    spoken = sum(max(0.0, min(end, b) - max(start, a)) for a, b in spans)
    return max(0.0, end - start - spoken)


def shown(told: dict[str, dict[str, Any]], recordings: Sequence[Recording]) -> Table:
    """Return one line a model."""
    minutes = sum(len(each.audio) for each in recordings) / SAMPLE_RATE / 60
    clips = sum(len(each.spans) for each in recordings)
    title = f"{len(recordings)} recordings, {minutes:.1f} minutes, {clips} clips"
    table = Table("training", title=title, title_justify="left")
    columns = ("error %", "segments", "boundary, median s", f"within {NEAR} s, %", "in pauses, s")
    for column in columns:
        table.add_column(column, justify="right")
    for name, each in told.items():
        cells = [
            f"{100 * each['error']:.1f}",
            f"{each['segments']}",
            f"{each['boundary_median_seconds']:.2f}",
            f"{100 * each['boundaries_found']:.0f}",
            f"{each['seconds_in_pauses']:.1f}",
        ]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
