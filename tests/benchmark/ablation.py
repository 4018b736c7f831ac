"""What each way to pad costs in error: a campaign of runs, to be stopped and gone on with.

    python tests/benchmark/ablation.py --corpora=FOLDER --english=tiny.en --multilingual=base

docs/ablation.md says what is compared. A cell that is done is not done again; a cell that was cut
off goes on from its checkpoint. `--table=True` only shows what is there. `--speed=True` tells how
fast each way trains: on a machine that does nothing else, which a campaign does not need.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

from ablation_table import Heard, compared, summary, table
from accelerate import Accelerator
from measure import launch, screen

from data.atomic_files import read_jsonl, write_json, write_jsonl
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.errors import InputError, plain_errors
from data.manifest import read_held_out, scan_cache_path
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.metrics.scores import Hypothesis
from eval.whisper import Whisper, load_whisper

# name, and the knobs that make it; the first is what the others are compared with
MODES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("30s", ("--data.pad=30s",)),
    ("bucket", ("--data.pad=bucket",)),
    ("packed", ("--data.pad=packed",)),
    # updates of any lengths, as padded training has them: the very same clips in each
    (
        "bucket, shuffled",
        (
            "--data.pad=bucket",
            "--data.buckets=1",
            "--data.token_buckets=1",
            "--data.fixed_shapes=False",
        ),
    ),
)
# ways whose knobs are no more: their cells are kept, and shown
PAST = ("mixed", "bucket, repair", "mixed, repair")
DECODED = {"padded": False, "short": True}  # name: at true length
TIMED = 16  # updates, the first four of which warm up


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Train in every way to pad, and score each at both lengths of decoding."""

    corpora: str  # a folder with joined/en, prompts/en and prompts/zh-TW
    english: str  # a model, trained on joined/en and scored on both English corpora
    multilingual: str  # a model, trained and scored on prompts/zh-TW
    updates: int = 100  # of 8 clips
    seeds: int = 3
    only: Literal["en", "zh"] | None = None  # one side of it: the two may run beside each other
    threads: int = os.cpu_count() or 1
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"  # autocast of training; scores: fp32
    out: str = "runs/ablation"
    kept: str = "docs/ablation"  # gets what each model heard, in counts
    table: bool = False  # show what is there, and make nothing
    speed: bool = False  # time each way's first updates, and make nothing else

    def __post_init__(self) -> None:
        """Refuse a folder that holds something else.

        Raises:
            InputError: a corpus is missing.
        """
        for name in ("joined/en", "prompts/en", "prompts/zh-TW"):
            if not (Path(self.corpora) / name).is_dir():
                raise InputError(f"{self.corpora}: has no folder {name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run: a model, a way to pad, a seed."""

    model: str
    train: Path
    language: str
    scored: Sequence[Path]
    mode: str
    knobs: Sequence[str]
    seed: int
    folder: Path  # of the run
    heard: Path  # the file that is there once the cell is done


def main() -> None:
    """Fill the cells that are empty, the same seed of all first."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        if command.speed:
            write_json(Path(command.kept) / "speed.json", speeds(command))
            return
        for cell in cells(command):
            asked = not command.table and command.only in (None, cell.language)
            if asked and not cell.heard.exists():
                train(cell, command)
                score(cell)
                shutil.rmtree(cell.folder)  # a gigabyte each
        files = sorted(Path(command.kept).glob("*.jsonl"))
        found = [Heard(**row) for path in files for row in read_jsonl(path)]
        told = summary(found, [*(mode for mode, _ in MODES), *PAST])
        write_json(Path(command.kept) / "ablation.json", told)
        screen().print(table(told))


def cells(command: Command) -> Iterator[Cell]:
    """Yield all runs, a seed after another."""
    corpora = Path(command.corpora)
    english = [corpora / "joined/en", corpora / "prompts/en"]
    chinese = [corpora / "prompts/zh-TW"]
    sides = ((command.english, "en", english), (command.multilingual, "zh", chinese))
    for seed in range(command.seeds):
        for mode, knobs in MODES:
            for model, language, scored in sides:
                name = f"{language}-{mode.replace(', ', '-')}-{seed}"
                yield Cell(
                    model=model,
                    train=scored[0],
                    language=language,
                    scored=scored,
                    mode=mode,
                    knobs=knobs,
                    seed=seed,
                    folder=Path(command.out) / name,
                    heard=Path(command.kept) / f"{name}.jsonl",
                )


def train(cell: Cell, command: Command) -> None:
    """Train a cell's model, from its checkpoint where there is one."""
    arguments = [
        f"--run_dir={cell.folder}",
        "--resume=auto",
        f"--seed={cell.seed}",
        f"--precision={command.precision}",
        f"--model.name={cell.model}",
        f"--data.corpus={cell.train}",
        f"--data.language={cell.language}",
        "--data.update_clips=8",
        "--data.max_seconds_per_forward=60",  # of memory: two windows
        "--data.dev_split=None",
        "--data.test_split=None",
        "--optim.lr=1e-5",
        "--optim.schedule=constant",
        "--optim.warmup=50",
        f"--loop.max_steps={command.updates}",
        "--checkpoint.save_every=20",
        "--checkpoint.keep=1",
        "--log.log_every=10",
        "--loop.stall_seconds=0",  # a campaign may be suspended
        *cell.knobs,
    ]
    launch(["trainer/main.py", *arguments], threads=command.threads)


def speeds(command: Command) -> dict[str, dict[str, float]]:
    """Train each way for a while, and tell clips a second, of its corpus's mean length.

    An update of a bucket holds clips of one length: what is timed is audio, and then divided.
    """
    found: dict[str, dict[str, float]] = {}
    timed = ("--log.log_every=4", f"--loop.max_steps={TIMED}")
    asked = (c for c in cells(command) if not c.seed and command.only in (None, c.language))
    for each in asked:
        folder = each.folder.with_name("speed")
        cell = replace(each, folder=folder, knobs=(*each.knobs, *timed))
        shutil.rmtree(folder, ignore_errors=True)  # of one that was cut off
        train(cell, command)
        rows = [row for row in read_jsonl(cell.folder / "metrics.jsonl") if "train/loss" in row]
        spans = [1 / row["speed/updates_per_second"] for row in rows[1:]]  # the first one warms up
        audio = [row["speed/audio_seconds_per_second"] for row in rows[1:]]
        heard = sum(a * b for a, b in zip(spans, audio, strict=True)) / sum(spans)
        clips = list(read_jsonl(cell.folder / "manifest.jsonl"))
        pace = heard * len(clips) / sum(clip["seconds"] for clip in clips)
        found.setdefault(cell.mode, {})[cell.language] = pace
        print(f"{cell.mode}, {cell.language}: {pace:.2f} clips/s", flush=True)
        shutil.rmtree(cell.folder)
    return found


def score(cell: Cell) -> None:
    """Transcribe the held-out clips, padded and at their own length, and write what was heard."""
    whisper = load_whisper(str(cell.folder / "model"))
    rows = [
        heard(cell, corpus, name, transcribed(cell, whisper, corpus, true_length=short)).to_json()
        for corpus in cell.scored
        for name, short in DECODED.items()
    ]
    write_jsonl(cell.heard, rows)


def transcribed(
    cell: Cell, whisper: Whisper, corpus: Path, *, true_length: bool
) -> list[Hypothesis]:
    """Return what a model hears in a corpus's dev and test, without clips of over 30 s."""
    data = DataConfig(corpus=(str(corpus),), language=(cell.language,))
    encoder, cache = whisper.labels(), scan_cache_path(cell.folder.parent, data)
    splits = (read_held_out(data, encoder, cache, split=s, show=False) for s in ("dev", "test"))
    clips = [u for kept, _ in splits for u in kept if u.seconds < data.max_seconds]
    evaluator = Evaluator(
        accelerator=Accelerator(), whisper=whisper, data=data, config=EvalConfig()
    )
    return evaluator.evaluate(clips, corpus.name, true_length=true_length)[1]


def heard(cell: Cell, corpus: Path, decoded: str, texts: Sequence[Hypothesis]) -> Heard:
    """Compare what was heard with what was said."""
    ordered = sorted(texts, key=lambda each: each.utterance.id)
    rows = [compared(each.utterance.text, each.text, cell.language) for each in ordered]
    edits, units, loops = zip(*rows, strict=True)
    return Heard(
        mode=cell.mode,
        seed=cell.seed,
        decoded=decoded,
        language=cell.language,
        corpus=str(corpus.relative_to(corpus.parents[1])),
        edits=edits,
        units=units,
        loops=loops,
    )


if __name__ == "__main__":
    main()
