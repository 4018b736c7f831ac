"""whisper-loop's side: its own command line, and the files that a run leaves."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from figures import Evaluation, Figures, Look
from measure import Process, Task, launch

from data.atomic_files import read_jsonl
from data.log_mel import CHUNK_SECONDS
from trainer.metrics.flops import WhisperFlops

LOADED = "libraries and model are loaded"
LOADING = f"""import sys
sys.path.insert(0, "")
import trainer.main
from eval.whisper import load_whisper
load_whisper(sys.argv[1])
print("{LOADED}")
"""


def start(task: Task, folder: Path, *extra: str) -> Figures:
    """Measure the way from nothing to the first update, the scan of the corpus in it."""
    loading = launch(["-c", LOADING, task.model], task.knobs.threads).said(LOADED)
    process = trainer(task, folder, "--loop.max_steps=1", "--log.log_every=1", *extra)
    read_again = [folder / "manifest.jsonl", *(folder.parent / ".scan").iterdir()]
    return Figures(
        disk_bytes=sum(path.stat().st_size for path in read_again),
        loading_seconds=loading,
        first_update_seconds=process.said("update      1  loss") - loading,
    )


def train(task: Task, folder: Path, *extra: str, program: str = "trainer/main.py") -> Figures:
    """Measure how fast it trains, and in how much memory."""
    knobs = task.knobs
    lines = f"--log.log_every={knobs.warmup}"  # the first one ends where timing begins
    steps = f"--loop.max_steps={knobs.updates}"
    process = trainer(task, folder, steps, lines, *extra, program=program)
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "train/loss" in row]
    told = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return replace(
        rates(rows, told["peak_flops"]["per_second"], task.flops),
        tree_bytes=process.tree_bytes,
        process_bytes=process.process_bytes,
        device_bytes=rows[-1]["memory/peak_gb"] * 1e9 if torch.cuda.is_available() else None,
    )


def rates(rows: list[dict[str, Any]], peak: float, flops: WhisperFlops) -> Figures:
    """Add up metrics, each of the updates since the line before it; the first one is left out."""
    steps = [row["step"] for row in rows]
    made = [after - before for before, after in pairwise(steps)]
    rows = [{k.removeprefix("speed/"): v for k, v in row.items()} for row in rows[1:]]
    spans = [n / row["updates_per_second"] for n, row in zip(made, rows, strict=True)]
    seconds = sum(spans)

    def mean(name: str) -> float:
        return sum(row[name] * span for row, span in zip(rows, spans, strict=True)) / seconds

    def padding(kind: str, real: str) -> float:
        held = sum(
            row[real] / (1 - row[kind]) * span for row, span in zip(rows, spans, strict=True)
        )
        return 1 - mean(real) * seconds / held

    clips, useful = mean("clips_per_second"), mean("useful_flops_per_second")
    padded = flops.train([(CHUNK_SECONDS, round(mean("tokens_per_second") / clips))]) * clips
    return Figures(
        updates_per_second=sum(made) / seconds,
        clips_per_second=clips,
        audio_seconds_per_second=mean("audio_seconds_per_second"),
        useful_flops=useful,
        peak_flops=peak,
        data_wait=mean("data_wait"),
        encoder_padding=padding("encoder_padding", "audio_seconds_per_second"),
        decoder_padding=padding("decoder_padding", "tokens_per_second"),
        ceiling=padded / useful,
        own_ceiling=padded / mean("flops_per_second"),
    )


def evaluate(task: Task, folder: Path, updates: int, *extra: str) -> Evaluation:
    """Train between two evaluations, padded as the other side's are; then one at true length."""
    knobs = ("--data.test_split=test", "--eval.pad=30s")
    process = trainer(task, folder, f"--loop.max_steps={updates}", *knobs, *extra)
    evaluated = launch(
        [
            *("-m", "eval", str(folder / "model"), str(task.corpus)),
            *(
                f"--language={task.knobs.language}",
                "--eval.pad=bucket",
                f"--out={folder / 'short'}",
            ),
            *(f"--eval.batch_seconds={30 * task.knobs.eval_clips}", "--eval.max_length=225"),
        ],
        task.knobs.threads,
    )
    (short,) = (folder / "short").iterdir()
    return Evaluation(
        before=look(folder / "eval" / f"step-{0:08d}" / "test"),
        after=look(folder / "eval" / f"step-{updates:08d}" / "test"),
        short=look(short),
        tree_bytes=max(process.tree_bytes, evaluated.tree_bytes),
    )


def look(at: Path) -> Look:
    """Read an evaluation's files."""
    scores = json.loads((at / "scores.json").read_text(encoding="utf-8"))
    texts = {row["id"]: row["hypothesis"] for row in read_jsonl(at / "utterances.jsonl")}
    return Look(texts=texts, seconds=scores["seconds"])


def trainer(task: Task, folder: Path, *extra: str, program: str = "trainer/main.py") -> Process:
    """Run a program that takes trainer/main.py's arguments with the guide's; later ones win."""
    knobs = task.knobs
    arguments = [
        f"--run_dir={folder}",
        f"--precision={knobs.numbers}",
        f"--model.name={task.model}",
        f"--model.gradient_checkpointing={knobs.gradient_checkpointing}",
        f"--data.corpus={task.corpus}",
        f"--data.language={knobs.language}",
        f"--data.update_clips={knobs.clips}",
        f"--data.workers={knobs.workers}",
        "--data.dev_split=None",
        "--data.test_split=None",
        "--optim.lr=1e-5",
        "--optim.schedule=constant",
        "--optim.warmup=50",
        f"--eval.batch_seconds={30 * knobs.eval_clips}",
        "--eval.max_length=225",
    ]
    return launch([program, *arguments, *extra], knobs.threads)
