"""What each way to pad costs in error: a campaign of runs, to be stopped and gone on with.

    python tests/benchmark/ablation.py --corpora=FOLDER --english=tiny.en --multilingual=base

docs/ablation.md says what is compared. A cell that is done is not done again; a cell that was cut
off goes on from its checkpoint. `--table` only shows what is there.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

from ablation_table import Heard, summary, table
from accelerate import Accelerator
from measure import launch, screen

from data.config import DataConfig
from data.errors import InputError, plain_errors
from data.files import read_jsonl, write_json, write_jsonl
from data.knobs import parse_dataclass
from data.manifest import read_held_out, scan_cache
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.whisper import Whisper, load_whisper

# name, and the knobs that make it; the first is what the others are compared with
MODES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("30s", ("--data.pad=30s",)),
    ("bucket", ("--data.pad=bucket",)),
    ("mixed", ("--data.pad=mixed",)),
    ("packed", ("--data.pad=packed",)),
    ("bucket, alone", ("--data.pad=bucket", "--model.silence=False")),
    ("bucket, repair", ("--data.pad=bucket", "--data.repair=0.25")),
    ("mixed, repair", ("--data.pad=mixed", "--data.repair=0.25")),
)
SPEED = "speed/clips_per_second"
DECODED = {"padded": False, "short": True}  # name: at true length


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Train in every way to pad, and score each at both lengths of decoding."""

    corpora: str  # a folder with joined/en, prompts/en and prompts/zh-TW
    english: str  # a model, trained on joined/en and scored on both English corpora
    multilingual: str  # a model, trained and scored on prompts/zh-TW
    updates: int = 100  # of 8 clips
    seeds: int = 3
    out: str = "runs/ablation"
    table: bool = False  # show what is there, and make nothing

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
    folder: Path

    @property
    def heard(self) -> Path:
        """Return the file that is there once the cell is done."""
        return self.folder / "heard.jsonl"


def main() -> None:
    """Fill the cells that are empty, the same seed of all first."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        found: list[Heard] = []
        rates: list[tuple[str, str, float]] = []
        for cell in cells(command):
            if not cell.heard.exists() and not command.table:
                train(cell, command.updates)
                score(cell)
            if cell.heard.exists():
                found += [Heard(**row) for row in read_jsonl(cell.heard)]
                rates += [(cell.mode, cell.language, rate) for rate in clips_per_second(cell)]
        told = summary(found, [mode for mode, _ in MODES], rates)
        write_json(Path(command.out) / "ablation.json", told)
        screen().print(table(told))


def cells(command: Command) -> Iterator[Cell]:
    """Yield all runs; the quick ways to pad come first within a seed."""
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
                )


def train(cell: Cell, updates: int) -> None:
    """Train a cell's model, from its checkpoint where there is one."""
    arguments = [
        f"--run_dir={cell.folder}",
        "--resume=auto",
        f"--seed={cell.seed}",
        "--precision=fp32",
        f"--model.name={cell.model}",
        f"--data.corpus={cell.train}",
        f"--data.language={cell.language}",
        "--data.update_clips=8",
        "--data.dev_split=None",
        "--data.test_split=None",
        "--optim.lr=1e-5",
        "--optim.schedule=constant",
        "--optim.warmup=50",
        f"--loop.max_steps={updates}",
        "--checkpoint.save_every=20",
        "--checkpoint.keep=1",
        "--log.log_every=10",
        "--loop.stall_seconds=0",  # a campaign may be suspended
        *cell.knobs,
    ]
    launch(["trainer/main.py", *arguments], threads=os.cpu_count() or 1)


def clips_per_second(cell: Cell) -> list[float]:
    """Return the rates that a run's log lines tell."""
    rows = read_jsonl(cell.folder / "metrics.jsonl")
    return [row[SPEED] for row in rows if SPEED in row]


def score(cell: Cell) -> None:
    """Transcribe the held-out clips, padded and at their own length, and write what was heard."""
    whisper = load_whisper(str(cell.folder / "model"))
    rows = [
        row.to_json()
        for corpus in cell.scored
        for name, short in DECODED.items()
        for row in transcribed(cell, whisper, corpus, name, true_length=short)
    ]
    write_jsonl(cell.heard, rows)


def transcribed(
    cell: Cell, whisper: Whisper, corpus: Path, decoded: str, *, true_length: bool
) -> Iterator[Heard]:
    """Yield what a model hears in a corpus's dev and test, without clips of over 30 s."""
    data = DataConfig(corpus=(str(corpus),), language=(cell.language,))
    encoder, cache = whisper.labels(), scan_cache(cell.folder.parent, data)
    splits = (read_held_out(data, encoder, cache, split=s, show=False) for s in ("dev", "test"))
    clips = [u for kept, _ in splits for u in kept if u.seconds < data.max_seconds]
    evaluator = Evaluator(
        accelerator=Accelerator(), whisper=whisper, data=data, config=EvalConfig()
    )
    for each in evaluator.evaluate(clips, corpus.name, true_length=true_length)[1]:
        yield Heard(
            mode=cell.mode,
            seed=cell.seed,
            decoded=decoded,
            language=cell.language,
            corpus=str(corpus.relative_to(corpus.parents[1])),
            id=each.utterance.id,
            reference=each.utterance.text,
            hypothesis=each.text,
        )


if __name__ == "__main__":
    main()
