"""How many shapes the forward passes of an epoch have, and what data.fixed_shapes pads for few.

    python tests/benchmark/shapes.py

Plans an epoch of synthetic clips with the lengths of Common Voice, without audio. docs/data.md has
the figures.
"""

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # after this folder: its files

from measure import screen
from rich.table import Table

from data.atomic_files import write_json
from data.batch import Shape
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.errors import plain_errors
from data.log_mel import FRAMES_PER_SECOND
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance

BUDGETS: tuple[dict[str, Any], ...] = (
    {"update_seconds": 120.0},
    {"update_seconds": 480.0},
    {"update_clips": 24},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Count the shapes and the padding of an epoch, with data.fixed_shapes off and on."""

    clips: int = 100_000
    processes: tuple[int, ...] = (1, 8)
    seed: int = 0  # of the clips and of the plan
    out: str = "runs/shapes.json"


def main() -> None:
    """Count, write and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        rows = list(measured(command))
        write_json(Path(command.out), {"clips": command.clips, "rows": rows})
        screen().print(table(rows))


def make_clips(command: Command) -> list[Utterance]:
    """Return clips of 1 to 30 s, 5 s on average, whose tokens follow their length."""
    rng = random.Random(command.seed)
    clips = []
    for number in range(command.clips):
        seconds = min(29.9, max(1.0, rng.lognormvariate(1.5, 0.45)))
        tokens = max(5, round(3.2 * seconds + rng.gauss(4, 3)))
        clips.append(Utterance(id=str(number), audio="", text="", seconds=seconds, tokens=tokens))
    return clips


def measured(command: Command) -> Iterator[dict[str, Any]]:
    """Yield the figures of each budget, off and on, by number of processes."""
    clips = make_clips(command)
    for budget in BUDGETS:
        for fixed in (False, True):
            config = DataConfig(fixed_shapes=fixed, **budget)
            begun = time.perf_counter()
            plan = Plan.from_utterances(clips, config, command.seed)
            updates = plan.num_updates(1)
            seconds = time.perf_counter() - begun
            for processes in command.processes:
                sampler = BucketedBatchSampler(plan, config, updates=updates, world_size=processes)
                figures = {"updates": updates, "plan_seconds": seconds, **counted(sampler)}
                yield {"budget": budget, "fixed_shapes": fixed, "processes": processes, **figures}


def counted(sampler: BucketedBatchSampler) -> dict[str, float]:
    """Return the passes and the most shapes of a process, and the padding of all."""
    shapes, frames, tokens, passes = 0, 0, 0, 0
    for rank in range(sampler.world_size):
        own = [shape_of(specs, sampler.plan) for specs in replace(sampler, rank=rank)]
        shapes, passes = max(shapes, len(set(own))), len(own)
        frames += sum(shape.rows * shape.frames for shape in own)
        tokens += sum(shape.rows * shape.tokens for shape in own)
    columns = sampler.plan.columns
    audio, targets = float(columns.seconds.sum()), int(columns.tokens.sum()) - len(columns.tokens)
    return {
        "passes": passes,
        "shapes": shapes,
        "encoder_padding": frames / FRAMES_PER_SECOND / audio - 1,
        "decoder_padding": tokens / targets - 1,
    }


def shape_of(specs: Sequence[SampleSpec], plan: Plan) -> Shape:
    """Return the shape of a pass. The decoder's input lacks the last token of a label."""
    longest = max((plan.tokens(clip) - 1 for spec in specs for clip in spec.clips), default=1)
    return Shape(len(specs), specs[0].frames, specs[0].label_length or longest)


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return one line for each row."""
    shown = Table(
        caption="padding: over the clips' audio, and their target tokens; of all processes",
        caption_justify="left",
    )
    shown.add_column("update")
    columns = ("processes", "fixed", "updates", "passes", "shapes", "enc.", "dec.", "plan, s")
    for column in columns:
        shown.add_column(column, justify="right")
    for row in rows:
        ((key, value),) = row["budget"].items()
        shown.add_row(
            f"{value:.0f} {key.removeprefix('update_')}",
            str(row["processes"]),
            "on" if row["fixed_shapes"] else "off",
            f"{row['updates']:,}",
            f"{row['passes']:,}",
            str(row["shapes"]),
            f"{row['encoder_padding']:.1%}",
            f"{row['decoder_padding']:.1%}",
            f"{row['plan_seconds']:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
