"""Seq2SeqTrainer and whisper-loop on the same synthetic clips, once each, for the run on a GPU.

    python tests/benchmark/gpu/compare.py --size=small --clips=8

The two sides are those of compare.py. Each is told as soon as it is known, the peer warms up for
fewer updates, since all its audio has one shape, and nothing is saved at the end.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import ours
import theirs
from corpus import set_up
from figures import Figures
from gpu.rows import record, smoke
from measure import Knobs, Shapes, Task

from data.config_parser import parse_dataclass
from data.errors import InputError, plain_errors

WARMUP = 64  # updates, after which most shapes have been met
PEER = (16, 32)  # updates of warm-up, and in all
TOLD = (  # of the figures
    "clips_per_second",
    "updates_per_second",
    "audio_seconds_per_second",
    "data_wait",
    "encoder_padding",
    "device_bytes",
    "ceiling",
)
UNSAVED = str(Path(__file__).with_name("unsaved.py"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Compare at one size and so many clips an update."""

    size: Shapes = "small"
    clips: int = 8  # an update
    updates: int = 128  # in all
    train_clips: int = 512  # of the corpus: its features are computed before the peer can train


def main() -> None:
    """Measure both sides, and tell each."""
    with plain_errors(), tempfile.TemporaryDirectory() as work:
        command = parse_dataclass(Command, sys.argv[1:])
        own_updates = (1, 2) if smoke() else (WARMUP, command.updates)
        peer_updates = (1, 2) if smoke() else PEER
        knobs = Knobs(
            synthetic=command.size,
            clips=command.clips,
            train_clips=8 if smoke() else command.train_clips,
            test_clips=2,
            warmup=own_updates[0],
            updates=own_updates[1],
            workers=2 if smoke() else 8,
            threads=1 if smoke() else 8,
        )
        task = set_up(knobs, Path(work))
        own = ours.train(task, Path(work) / "ours", "--data.pad=bucket", program=UNSAVED)
        record("whisper-loop", precision=knobs.numbers, **told(task, own))
        few = replace(task, knobs=replace(knobs, warmup=peer_updates[0], updates=peer_updates[1]))
        other = measure_peer(few, Path(work))
        record(
            "ratio",
            clips=command.clips,
            clips_per_second=(own.clips_per_second or 0) / (other.clips_per_second or 1),
        )


def measure_peer(task: Task, work: Path) -> Figures:
    """Train with Seq2SeqTrainer, with gradient checkpointing where memory runs out without."""
    cache = work / "peer" / "cache"
    cache.mkdir(parents=True)
    prepared = theirs.prepare(task, cache)
    record("Seq2SeqTrainer, features", took_s=round(prepared.preparation_seconds or 0, 1))
    try:
        found = theirs.train(task, cache, 0)
    except InputError as error:
        if "out of memory" not in str(error) or task.knobs.gradient_checkpointing:
            raise
        record("Seq2SeqTrainer, activations kept", out_of_memory=True)
        task = replace(task, knobs=replace(task.knobs, gradient_checkpointing=True))
        found = theirs.train(task, cache, 0)
    checkpointed = task.knobs.gradient_checkpointing
    record("Seq2SeqTrainer", gradient_checkpointing=checkpointed, **told(task, found))
    return found


def told(task: Task, found: Figures) -> dict[str, Any]:
    """Return the figures that there are, and useful FLOP/s in TFLOP/s."""
    known = {key: value for key, value in asdict(found).items() if key in TOLD and value}
    known |= {"tflops": (found.useful_flops or 0) / 1e12}
    return {"clips": task.knobs.clips, **{key: round(value, 3) for key, value in known.items()}}


if __name__ == "__main__":
    main()
