"""Real weights and real speech on a GPU: what some updates in bf16 and in fp16 make of the error.

    python tests/benchmark/gpu/real_speech.py --model=FOLDER --corpus=FOLDER

The corpus has the splits train and test, in any layout that data.corpus takes.
"""

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import torch
from gpu.rows import record, smoke
from measure import launch

from data.atomic_files import read_jsonl
from data.config_parser import parse_dataclass
from data.errors import InputError, plain_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Fine-tune a model on a corpus, in each precision."""

    model: str  # a folder
    corpus: str  # a folder
    language: str | None = None  # Whisper's code; None: as the corpus says
    updates: int = 60
    error: float | None = None  # that a CPU reached with the same arguments, as a fraction


def main() -> None:
    """Train in each precision that the device has, and tell the error before and after."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        for folder in (command.model, command.corpus):
            if not Path(folder).is_dir():
                raise InputError(f"{folder}: no such folder")
        if command.error is not None:
            record("CPU reference", error_after=command.error)
        if smoke():
            command = replace(command, updates=2)
        precisions = ("bf16", "fp16") if torch.cuda.is_available() else ("fp32",)
        for precision in precisions:
            with tempfile.TemporaryDirectory() as folder:
                found = fine_tuned(command, Path(folder) / "run", precision)
            record(precision, **found)
            before, after = found["error_before"], found["error_after"]
            if not (after < before or smoke()):
                raise InputError(f"{precision}: error {before:.3f} became {after:.3f}, not lower")


def fine_tuned(command: Command, run: Path, precision: str) -> dict[str, Any]:
    """Return test's error before and after training, and the first and last losses."""
    language = [f"--data.language={command.language}"] if command.language else []
    arguments = [
        f"--run_dir={run}",
        f"--precision={precision}",
        f"--model.name={Path(command.model).resolve()}",
        f"--data.corpus={Path(command.corpus).resolve()}",
        *language,
        "--data.update_clips=8",
        "--data.dev_split=None",
        f"--loop.max_steps={command.updates}",
        "--optim.lr=1e-5",
        "--optim.warmup=50",
        "--log.log_every=5",
        "--eval.non_speech=False",
    ]
    launch(["trainer/main.py", *arguments], 8 if precision != "fp32" else 1)
    losses = [row["train/loss"] for row in read_jsonl(run / "metrics.jsonl") if "train/loss" in row]
    before, after = (
        json.loads((run / f"eval/step-{step:08d}/test/scores.json").read_text(encoding="utf-8"))
        for step in (0, command.updates)
    )
    return {
        "error_before": before["error"],
        "error_after": after["error"],
        "clips_per_second": after["clips_per_second"],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


if __name__ == "__main__":
    main()
