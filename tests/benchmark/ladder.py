"""whisper-loop from padded to everything on: one change a row.

    python tests/benchmark/ladder.py --model=MODEL --corpus=CORPUS --out=ladder.json

Every row keeps the changes of the rows above it. All rows are run once a round, in turn.
"""

import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

import ours
import torch
from corpus import set_up
from figures import Figures, median
from measure import Knobs, Task, screen, surroundings
from rich.table import Table

from data.atomic_files import write_json
from data.config_parser import parse_dataclass
from data.errors import plain_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(Knobs):
    """Measure what each change is worth to whisper-loop's speed."""


# name, and the arguments that are new in it; the first row does as the guide does
RUNGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "the guide's way, decoding in between",
        (
            "--data.pad=30s",
            "--data.workers=0",
            "--model.gradient_checkpointing=True",
            "--model.silence_states=False",
            "--model.cast_once=False",
            "--model.compile=False",
            "--data.fixed_shapes=False",
        ),
    ),
    ("activations kept", ("--model.gradient_checkpointing=False",)),
    ("2 workers decode", ("--data.workers=2",)),
    (
        "padded to the update's longest clip",
        (
            "--data.pad=bucket",
            "--data.buckets=1",
            "--data.token_buckets=1",
            "--data.max_padding=99",
        ),
    ),
    ("buckets of length", ("--data.buckets=32",)),
    ("buckets of label tokens", ("--data.token_buckets=3",)),
    ("passes of like length", ("--data.max_padding=0.04",)),
    ("states of silence behind each clip", ("--model.silence_states=True",)),
    ("weights cast once an update (half precision)", ("--model.cast_once=True",)),
    ("layers compiled", ("--model.compile=True",)),
    ("fixed shapes", ("--data.fixed_shapes=True",)),
    *(
        [("training passes as CUDA graphs", ("--model.cuda_graphs=True",))]
        if torch.cuda.is_available()
        else []
    ),
    ("silence behind a quarter of the updates", ("--data.trailing_silence=0.25",)),
)
COLUMNS = ("clips/s", "ratio", "audio-s/s", "MFU", "wait", "enc.", "dec.", "GB")


def main() -> None:
    """Measure, show, and write."""
    with plain_errors(), tempfile.TemporaryDirectory() as work:
        command = parse_dataclass(Command, sys.argv[1:])
        task = set_up(command, Path(work))
        found: list[list[Figures]] = [[] for _ in RUNGS]
        for number in range(command.rounds):
            for rung, figures in enumerate(found):
                figures.append(climb(task, rung, number))
                speed = figures[-1].clips_per_second
                print(f"round {number + 1}: {RUNGS[rung][0]}: {speed:.2f} clips/s")
        rows = [
            {"name": name, "new": new, "median": asdict(median(figures))}
            for (name, new), figures in zip(RUNGS, found, strict=True)
        ]
    screen().print(table(rows))
    if command.out is not None:
        told = {"surroundings": surroundings(), "knobs": asdict(command), "rows": rows}
        write_json(Path(command.out), told)


def climb(task: Task, rung: int, number: int) -> Figures:
    """Measure a row, with all that came before it."""
    folder = task.folder / "rung"
    arguments = [argument for _, new in RUNGS[: rung + 1] for argument in new]
    figures = ours.train(task, folder, *arguments, f"--seed={number}")
    shutil.rmtree(folder)
    return figures


def table(rows: list[dict[str, Any]]) -> Table:
    """Return one line a row."""
    shown = Table(
        caption="ratio: to the first row; enc., dec.: padding, of their positions; GB: peak",
        caption_justify="left",
    )
    shown.add_column("", no_wrap=True)
    for column in COLUMNS:
        shown.add_column(column, justify="right", no_wrap=True)
    first = rows[0]["median"]["clips_per_second"]
    peak = max(row["median"]["peak_flops"] for row in rows)
    for row in rows:
        each = row["median"]
        shown.add_row(
            row["name"],
            f"{each['clips_per_second']:.2f}",
            f"{each['clips_per_second'] / first:.2f}",
            f"{each['audio_seconds_per_second']:.1f}",
            f"{each['useful_flops'] / peak:.0%}",
            f"{each['data_wait']:.0%}",
            f"{each['encoder_padding']:.0%}",
            f"{each['decoder_padding']:.0%}",
            f"{(each['device_bytes'] or each['tree_bytes']) / 1e9:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
