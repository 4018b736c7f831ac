"""The passes of each process of a run on synthetic clips, for scaling.py."""

import random
from collections.abc import Iterator

import numpy as np

from data.batch import Shape
from data.config import DataConfig
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from tests.benchmark.synthetic import WORDS_PER_SECOND, draw_seconds

Passes = list[list[Shape]]  # of a process, by update


def make_corpus(update_seconds: float, updates: int) -> list[Utterance]:
    """Return clips for more updates than are simulated."""
    clips = round(2 * updates * update_seconds / 5)  # a clip has 5 s on average
    rng = random.Random(0)
    return [
        Utterance(
            id=str(number),
            audio="",
            text="",
            seconds=seconds,
            tokens=max(5, round(WORDS_PER_SECOND * seconds + rng.gauss(4, 3))),
        )
        for number, seconds in enumerate(draw_seconds(np.random.default_rng(0), clips))
    ]


def passes_of(plan: Plan, sampler: BucketedBatchSampler) -> Iterator[list[Shape]]:
    """Yield the shapes of a process's passes, update by update."""
    shapes: list[Shape] = []
    for specs in sampler:
        shapes.append(_shape(plan, specs))
        if specs[0].is_last:
            yield shapes
            shapes = []


def _shape(plan: Plan, specs: list[SampleSpec]) -> Shape:
    tokens = max(sum(plan.tokens(clip) for clip in spec.clips) or 1 for spec in specs)
    return Shape(len(specs), specs[0].frames, tokens)


def passes_of_all(plan: Plan, config: DataConfig, processes: int, updates: int) -> list[Passes]:
    """Return the passes of each process."""
    ranks = []
    for rank in range(processes):
        sampler = BucketedBatchSampler(
            plan, config, updates=updates, rank=rank, world_size=processes
        )
        ranks.append(list(passes_of(plan, sampler)))
    return ranks
