"""One update over the same ragged clips, cut into passes: transformers' Seq2SeqTrainer and ours.

    python tests/benchmark/accumulation.py --out=accumulation.json

Gradient accumulation trades memory for time and should change nothing else: wherever loss or
gradient differ between rows, the passes are not weighed by their tokens. Runs on the CPU.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

if not __package__:  # run as a script: search the repository for imports
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from data.batch import IGNORE_INDEX, Batch, Position
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.corpora import read
from data.dataloader import BatchPreparer, train_batches
from data.errors import plain_errors
from data.log_mel import CHUNK_SECONDS
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from eval.whisper import Whisper, load_whisper
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig, build_optimizer
from trainer.step import train_step

CLIPS = 8
PASSES = (1, 4, 8)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (1, 16, 2, 12, 3, 9, 1, 20)  # in each clip's text


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Compare gradient accumulation in transformers' Seq2SeqTrainer and in whisper-loop."""

    model: str | None = None  # a folder or a name on the Hub; None: a small one, made on the spot
    out: str | None = None  # a JSON file to write


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What an update says of itself."""

    loss: float  # as it is logged
    grad_norm: float  # before clipping


def main() -> None:
    """Measure, show, and write."""
    with plain_errors(), tempfile.TemporaryDirectory() as folder:
        command = parse_dataclass(Command, sys.argv[1:])
        corpus = make_corpus(Path(folder) / "corpus")
        model = command.model or blank(corpus, Path(folder) / "blank")
        # ours first: the Trainer resets the state that all Accelerators share
        ours = [measure_ours(model, corpus, passes) for passes in PASSES]
        clips = draw(load_whisper(model), corpus, CLIPS)
        theirs = [measure_trainer(model, clips, passes, folder) for passes in PASSES]
    versions = {"transformers": version("transformers"), "torch": version("torch")}
    Console().print(table(theirs, ours, versions))
    if command.out is not None:
        rows = [
            {"passes": passes, "seq2seq_trainer": asdict(their), "whisper_loop": asdict(our)}
            for passes, their, our in zip(PASSES, theirs, ours, strict=True)
        ]
        tokens = [sum(batch.tokens) for batch in clips]
        told = {**versions, "model": command.model or "blank", "tokens": tokens, "rows": rows}
        Path(command.out).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def make_corpus(folder: Path) -> Path:
    """Write tones of 1 to 4 seconds with texts of ragged length, as a manifest."""
    rng = np.random.default_rng(0)
    rows = []
    folder.mkdir()
    for number, words in enumerate(WORDS):
        time = np.arange(round(16_000 * rng.uniform(1, 4))) / 16_000
        tone = 0.3 * np.sin(2 * np.pi * rng.integers(200, 800) * time)
        soundfile.write(folder / f"{number}.wav", tone, 16_000)
        text = " ".join(rng.choice(NUMBERS, words))
        rows.append({"path": f"{number}.wav", "text": text, "language": "en"})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    return folder


def blank(corpus: Path, out: Path) -> str:
    """Make a small Whisper with random weights."""
    make_tiny_model(TinyModelConfig(out=str(out), corpus=(str(corpus),), encoder_layers=2))
    return str(out)


def draw(whisper: Whisper, corpus: Path, passes: int) -> list[Batch]:
    """Return the update, cut into passes, padded to 30 s as the stock model wants it."""
    seconds = CHUNK_SECONDS * CLIPS / passes
    config = DataConfig(update_clips=CLIPS, pad="30s", max_seconds_per_forward=seconds, workers=0)
    encoder = whisper.labels()
    rows = []
    for u in read(replace(config, corpus=(str(corpus),)), "train"):
        length = soundfile.info(u.audio).duration
        rows.append(replace(u, seconds=length, tokens=len(encoder.encode(u.text, "en"))))
    sampler = BucketedBatchSampler(Plan.from_utterances(rows, config, seed=0), config, updates=1)
    loader = train_batches(rows, config, BatchPreparer(encoder, whisper.n_mels), sampler)
    batches = list(loader.start(Position(), 1))
    assert len(batches) == passes
    return batches


def measure_ours(model: str, corpus: Path, passes: int) -> Measured:
    """Make the update with trainer.step."""
    accelerator = Accelerator(cpu=True)
    whisper = load_whisper(model)
    module = prepare_training(whisper, ModelConfig())
    prepared, optimizer = accelerator.prepare(module, build_optimizer(module, OptimConfig()))
    batches = draw(whisper, corpus, passes)
    tokens = sum(sum(batch.tokens) for batch in batches)
    result = train_step(
        Engine(accelerator, prepared, optimizer), batches, tokens=tokens, max_norm=1.0
    )
    return Measured(loss=result.loss.item() / tokens, grad_norm=result.grad_norm.item())


def measure_trainer(model: str, clips: Sequence[Batch], passes: int, folder: str) -> Measured:
    """Make the update with transformers' Seq2SeqTrainer, and read what it logs."""
    from transformers import (  # here: data has made torchaudio importable by now
        PrinterCallback,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
    )

    arguments = Seq2SeqTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=CLIPS // passes,
        gradient_accumulation_steps=passes,
        max_steps=1,
        logging_steps=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Seq2SeqTrainer(
        model=WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32),
        args=arguments,
        train_dataset=[{"features": b.features[0], "labels": b.labels[0]} for b in clips],
        data_collator=collate,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (logged,) = (row for row in trainer.state.log_history if "loss" in row)
    return Measured(loss=float(logged["loss"]), grad_norm=float(logged["grad_norm"]))


def collate(clips: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad labels to the longest, as every recipe with this Trainer does."""
    labels = [clip["labels"] for clip in clips]
    return {
        "input_features": torch.stack([clip["features"] for clip in clips]),
        "labels": torch.nn.utils.rnn.pad_sequence(
            labels, batch_first=True, padding_value=IGNORE_INDEX
        ),
    }


def table(theirs: list[Measured], ours: list[Measured], versions: dict[str, str]) -> Table:
    """Return the figures side by side."""
    shown = Table(title=f"One update of {CLIPS} clips, transformers {versions['transformers']}")
    shown.add_column("passes", justify="right")
    for name in ("Seq2SeqTrainer", "whisper-loop"):
        shown.add_column(f"{name}: loss", justify="right")
        shown.add_column("gradient norm", justify="right")
    for passes, their, our in zip(PASSES, theirs, ours, strict=True):
        figures = (their.loss, their.grad_norm, our.loss, our.grad_norm)
        shown.add_row(str(passes), *(f"{figure:.4f}" for figure in figures))
    return shown


if __name__ == "__main__":
    main()
