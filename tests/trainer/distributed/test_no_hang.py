"""All processes make the same number of passes and updates, whatever fails on one of them.

A process that makes a pass less than the others leaves them in the gradient's all-reduce for ever.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data.batch import Batch, Position
from data.config import DataConfig
from data.dataloader import BatchPreparer, train_batches
from data.labels import LabelEncoder
from data.log_mel import FRAMES_PER_SECOND, SAMPLE_RATE
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from eval.whisper import load_whisper

CASES = 1000
QUICK = 75  # of them, in the default suite
SECONDS = 30.0  # in the file that all utterances are slices of
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A corpus, a config, and the clips that one process cannot decode."""

    rows: list[Utterance]
    config: DataConfig
    world: int
    epoch: int
    passed_over: set[Position]  # updates that are left out, since they failed before
    sick: int  # the process on which files are broken
    broken: dict[str, str]  # utterance's id to the file that is there in place of its own

    @property
    def plan(self) -> Plan:
        """Return the plan, which is every process's."""
        return Plan.from_utterances(self.rows, self.config, seed=0)

    @property
    def updates(self) -> dict[Position, list[str]]:
        """Return the updates of the epoch that are made, and the utterances of each."""
        plan = {
            Position(self.epoch, number): [self.rows[clip].id for clip in update]
            for number, update in enumerate(self.plan.updates(self.epoch))
        }
        return {at: names for at, names in plan.items() if at not in self.passed_over}

    def seen_by(self, rank: int) -> list[Utterance]:
        """Return the utterances with the files that lie on a process's disk."""
        broken = self.broken if rank == self.sick else {}
        return [replace(u, audio=broken.get(u.id, u.audio)) for u in self.rows]


class Cases:
    """Draws cases: a pure function of the seed."""

    def __init__(self, folder: Path, encoder: LabelEncoder) -> None:
        """Write the files."""
        self.encoder = encoder
        rng = np.random.default_rng(0)
        noise = 0.1 * rng.standard_normal(round(SECONDS * SAMPLE_RATE))
        self.audio = str(folder / "noise.wav")
        soundfile.write(self.audio, noise, SAMPLE_RATE)
        self.broken = [str(folder / name) for name in ("missing", "empty.wav", "text.wav", "nan")]
        Path(self.broken[1]).write_bytes(b"")
        Path(self.broken[2]).write_text("not found", encoding="utf-8")
        soundfile.write(self.broken[3], noise * np.nan, SAMPLE_RATE, format="WAV", subtype="FLOAT")

    def draw(self, seed: int) -> Case:
        """Return a case."""
        rng = random.Random(seed)
        pad: Any = rng.choice(["bucket", "bucket", "bucket", "packed", "30s"])
        silence = rng.choice([0.0, 0.0, 0.5])
        cheap = pad == "bucket" and not silence
        scale = rng.choice([0.3, 1.0, 4.0, 29.9])
        # features of 30 s cost 20 times those of a short clip: such corpora are small
        clips = rng.randint(1, 50 if cheap and scale < 29 else 10)
        config = DataConfig(
            update_clips=rng.choice([None, rng.randint(1, 20)]),
            update_seconds=scale * rng.uniform(0.2, 12),
            update_tokens=rng.choice([20, 80, 4096]),
            max_seconds_per_forward=rng.uniform(0.2, 8) * (scale if cheap else SECONDS),
            pad=pad,
            trailing_silence=silence,
            max_padding=rng.choice([0.0, 0.03, 0.2, 9.0]),
            max_tokens_per_forward=rng.choice([8192, rng.randint(5, 60)]),
            quadratic_memory_seconds=rng.choice([None, rng.uniform(1, 60)]),
            buckets=rng.randint(1, 32),
            token_buckets=rng.randint(1, 4),
            workers=0,
        )
        rows = [self._utterance(rng, str(number), scale) for number in range(clips)]
        world, share = rng.randint(1, 8), rng.choice([0.0, 0.1, 0.5, 1.0])
        epoch, over = rng.randint(0, 3), rng.choice([0.0, 0.0, 0.2, 1.0])
        broken = {u.id: rng.choice(self.broken) for u in rows if rng.random() < share}
        return Case(
            rows=rows,
            config=replace(config, fixed_shapes=rng.choice([False, True])),
            world=world,
            epoch=epoch,
            passed_over={Position(epoch, i) for i in range(clips) if rng.random() < over},
            sick=rng.randrange(world),
            broken=broken,
        )

    def _utterance(self, rng: random.Random, name: str, scale: float) -> Utterance:
        seconds = rng.uniform(0.02, scale)
        start = rng.uniform(0, SECONDS - seconds)
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))
        (tokens,) = self.encoder.count_tokens([text], ["en"])
        return Utterance(
            id=name,
            audio=self.audio,
            text=text,
            language="en",
            seconds=seconds,
            start=start,
            end=start + seconds,
            tokens=tokens,
        )

    def epoch_of(self, case: Case, rank: int) -> list[Batch]:
        """Return the passes of an epoch, from one process's real loader."""
        sampler = BucketedBatchSampler(
            case.plan, case.config, updates=0, rank=rank, world_size=case.world
        )
        passes = train_batches(
            case.seen_by(rank), case.config, BatchPreparer(self.encoder, 80), sampler
        )
        start = Position(case.epoch, 0)
        return list(passes.start(start, len(case.updates), case.passed_over))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, blank_model: Path) -> Cases:
    """Return the random generator of cases."""
    encoder = load_whisper(str(blank_model)).labels()
    return Cases(tmp_path_factory.mktemp("files"), encoder)


def test_all_processes_make_the_same_passes_whatever_fails_on_one(cases: Cases) -> None:
    for seed in range(QUICK):
        check(cases, seed)


@pytest.mark.slow
def test_all_processes_make_the_same_passes_in_a_thousand_cases(cases: Cases) -> None:
    for seed in range(CASES):
        check(cases, seed)


def check(cases: Cases, seed: int) -> None:
    """Run a case through every process's loader."""
    case = cases.draw(seed)
    ranks = [cases.epoch_of(case, rank) for rank in range(case.world)]
    description = f"seed {seed}: {len(case.rows)} clips, {case.world} processes, {case.config}"
    assert len({len(passes) for passes in ranks}) == 1, description
    for together in zip(*ranks, strict=True):
        assert (
            len({(batch.position, batch.next_position, batch.is_last) for batch in together}) == 1
        ), description
        assert any(batch.ids for batch in together), f"a pass of nothing; {description}"
    assert [batch.position for batch in ranks[0] if batch.is_last] == list(case.updates), (
        description
    )
    drawn: dict[Position, list[str]] = {}
    for batch in (batch for passes in ranks for batch in passes):
        drawn.setdefault(batch.position, []).extend(batch.ids)
    for at, names in case.updates.items():
        assert sorted(drawn.pop(at)) == sorted(names), description
    assert not drawn, description
    if not case.passed_over:
        made = [name for names in case.updates.values() for name in names]
        assert sorted(made) == sorted(u.id for u in case.rows), description
    check_budgets(case, ranks, description)
    check_drops(case, ranks, description)


def check_budgets(case: Case, ranks: list[list[Batch]], description: str) -> None:
    """No pass is over its memory and no update over its budget, unless a single clip is."""
    config, rows = case.config, {u.id: u for u in case.rows}
    updates: dict[Position, list[Utterance]] = {}
    for batch in (batch for passes in ranks for batch in passes):
        held = len(batch.features) * batch.features.shape[-1] / FRAMES_PER_SECOND
        assert len(batch.features) == 1 or held <= config.max_seconds_per_forward + 1e-9, (
            description
        )
        assert len(batch.labels) == 1 or batch.labels.numel() <= config.max_tokens_per_forward, (
            description
        )
        updates.setdefault(batch.position, []).extend(rows[name] for name in batch.ids)
    for clips in updates.values():
        seconds, tokens = sum(u.seconds for u in clips), sum(u.tokens for u in clips)
        within = seconds <= config.update_seconds + 1e-9 and tokens <= config.update_tokens
        if config.update_clips is not None:
            within = len(clips) <= config.update_clips
        on_average = config.fixed_shapes and config.pad == "30s" and config.update_clips is None
        assert within or len(clips) == 1 or on_average, description


def check_drops(case: Case, ranks: list[list[Batch]], description: str) -> None:
    """Broken clips, and no others, are dropped: they are named and have no loss."""
    tokens = {u.id: u.tokens - 1 for u in case.rows}
    for rank, passes in enumerate(ranks):
        mine = [name for batch in passes for name in batch.ids]
        broken = {name for name in mine if rank == case.sick and name in case.broken}
        assert {drop.id for batch in passes for drop in batch.drops} == broken, description
        weights = [pair for b in passes for pair in zip(b.ids, b.tokens, strict=True)]
        assert all((weight == 0) == (name in broken) for name, weight in weights), description
        if case.config.pad != "packed":  # there clips share a prefix and an end
            assert all(weight in (0, tokens[name]) for name, weight in weights), description
