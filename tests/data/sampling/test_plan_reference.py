"""The plan, its buckets and its worst pass are those of the plainest code, bit for bit.

What follows is how they were first written: a loop over clips, as the words of
data/sampling/epoch_plan.py say it. Another plan would give the runs that are under way other
clips at their resume.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from data.audio.augment import AugmentConfig
from data.batch import Shape
from data.config import DataConfig
from data.lazy_manifest import ManifestColumns
from data.log_mel import frames_of
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.buckets import MIN_UPDATES, WHOLE_WINDOWS, bucket_edges
from data.sampling.corpus_weights import weights_of
from data.sampling.epoch_plan import Plan
from data.sampling.padded_length import padded_frames
from data.utterance import Utterance
from trainer.metrics.flops import WhisperFlops

WHISPER = WhisperFlops(d_model=384, encoder_layers=4, decoder_layers=4, n_mels=80, vocabulary=51865)


def speech(clips: int, seed: int) -> list[Utterance]:
    """Return clips of 0.1 to 30 s, of two corpora and two languages, some with a prompt."""
    rng = random.Random(seed)
    found = []
    for number in range(clips):
        seconds = min(29.99, max(0.1, rng.lognormvariate(1.5, 0.7)))
        found.append(
            Utterance(
                id=str(number),
                audio="",
                text="",
                seconds=seconds,
                tokens=max(1, round(3 * seconds + rng.gauss(4, 3))),
                corpus=rng.choice("ab"),
                language=rng.choice(("en", "zh")),
                prompt_tokens=rng.choice((0, 0, 7, 300)),
            )
        )
    return found


def plain_edges(ordered: list[float], buckets: int) -> list[int]:
    """Return the edges of clips in order of length."""
    share, edges, total = sum(ordered) / buckets, list[int](), 0.0
    for clip in ordered:
        total += clip
        if total >= share * (len(edges) + 1) * (1 - 1e-9):
            edges.append(padded_frames(clip))
    return sorted({*edges, padded_frames(ordered[-1])})


def plain_buckets(rows: Sequence[Utterance], config: DataConfig) -> list[list[int]]:
    """Return the buckets of utterances."""

    def updates(indices: Sequence[int]) -> float:
        if config.update_clips is not None:
            return len(indices) / config.update_clips
        return sum(rows[i].seconds for i in indices) / config.update_seconds

    everything = range(len(rows))
    if config.pad in WHOLE_WINDOWS:
        return [list(everything)]
    most = max(1, min(config.buckets, int(updates(everything) / MIN_UPDATES)))
    edges = plain_edges(sorted(u.seconds for u in rows), most)
    place = [sum(edge < frames_of(u.seconds) for edge in edges) for u in rows]
    by_tokens = sorted(everything, key=lambda i: rows[i].tokens)
    buckets = []
    for each in range(len(edges)):
        held = [i for i in by_tokens if place[i] == each]
        parts = max(1, min(config.token_buckets, int(updates(held) / MIN_UPDATES)))
        cuts = [len(held) * part // parts for part in range(parts + 1)]
        buckets += [held[a:b] for a, b in pairwise(cuts) if held]
    return buckets


def plain_times(rows: Sequence[Utterance], config: DataConfig, seed: int, epoch: int) -> list[int]:
    """Return the repetitions of each utterance."""
    times = [1] * len(rows)
    weights = weights_of(ManifestColumns.from_utterances(rows), config)
    for number, (corpus, weight) in enumerate(weights.items()):
        clips = [index for index, u in enumerate(rows) if u.corpus == corpus]
        first, last = (int(n * weight * len(clips) + 1e-6) for n in (epoch, epoch + 1))
        for index in clips:
            times[index] = 0
        for lap in range(first // len(clips), -(-last // len(clips))):
            line = random.Random(f"{seed} corpus {number} {lap}").sample(clips, len(clips))
            begin = lap * len(clips)
            for index in line[max(0, first - begin) : last - begin]:
                times[index] += 1
    return times


def plain_cut(
    rows: Sequence[Utterance], indices: Sequence[int], config: DataConfig
) -> list[list[int]]:
    """Return groups within the budget."""
    group: list[int] = []
    groups, seconds, tokens = [group], 0.0, 0
    for index in indices:
        seconds += rows[index].seconds
        tokens += rows[index].tokens
        over = seconds > config.update_seconds or tokens > config.update_tokens
        if config.update_clips is not None:
            over = len(group) + 1 > config.update_clips
        if group and over:
            group = []
            groups.append(group)
            seconds, tokens = rows[index].seconds, rows[index].tokens
        group.append(index)
    return groups


def plain_updates(
    rows: Sequence[Utterance], config: DataConfig, seed: int, epoch: int
) -> list[list[int]]:
    """Return the updates of an epoch."""
    rng = random.Random(f"{seed} {epoch}")
    updates: list[list[int]] = []
    rest: list[int] = []
    times = plain_times(rows, config, seed, epoch)
    for indices in plain_buckets(rows, config):
        bucket = [index for index in indices for _ in range(times[index])]
        rng.shuffle(bucket)
        cut = plain_cut(rows, bucket, config)
        updates += cut[:-1]
        rest += cut[-1]
    updates += filter(None, plain_cut(rows, rest, config))
    rng.shuffle(updates)
    return updates


CONFIGS = [
    DataConfig(update_seconds=60.0),
    DataConfig(update_seconds=300.0, update_tokens=500, buckets=5, token_buckets=2),
    DataConfig(update_clips=7),
    DataConfig(update_seconds=45.0, trailing_silence=0.4),
    DataConfig(pad="30s", update_clips=16),
    DataConfig(pad="packed", update_seconds=90.0, prompt_probability=0.5),
    DataConfig(
        update_seconds=60.0,
        timestamp_probability=0.5,
        prompt_probability=0.7,
        max_seconds_per_forward=25.0,
    ),
    DataConfig(update_seconds=80.0, augment=AugmentConfig(speed=(0.9, 1.0, 1.1))),
    DataConfig(
        update_clips=20, max_tokens_per_forward=150, quadratic_memory_seconds=20.0, max_padding=0.0
    ),
    DataConfig(corpus=("a", "b"), weights=(0.3, 2.5), update_seconds=60.0),
    DataConfig(corpus=("a", "b"), hours_per_epoch=(0.2, 0.1), update_seconds=60.0),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("clips", [1, 3, 50, 1500])
def test_updates_are_those_of_the_plain_loop(config: DataConfig, clips: int) -> None:
    rows = speech(clips, seed=clips)
    if config.corpus and clips < 50:
        rows = [replace(u, corpus="b") for u in rows]
    plan = Plan.from_utterances(rows, config, seed=3)
    assert [bucket.tolist() for bucket in plan.buckets] == plain_buckets(rows, config)
    if not plan.weights:
        assert plan.mean_seconds == sum(u.seconds for u in rows) / len(rows)
    heard = [plan.weights.get(u.corpus, 1.0) for u in rows]
    seconds = sum(weight * u.seconds for weight, u in zip(heard, rows, strict=True))
    assert plan.mean_seconds == pytest.approx(seconds / sum(heard), rel=1e-12)
    for epoch in (0, 1, 4):
        assert list(plan.updates(epoch)) == plain_updates(rows, config, 3, epoch)


@pytest.mark.parametrize("buckets", [1, 3, 32, 400])
def test_edges_are_those_of_the_plain_loop(buckets: int) -> None:
    for seed in range(20):
        seconds = [u.seconds for u in speech(200, seed)]
        assert bucket_edges(np.array(seconds), buckets) == plain_edges(sorted(seconds), buckets)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("world_size", [1, 3])
def test_the_worst_pass_is_the_first_largest_of_all(
    config: DataConfig, world_size: int, fixed: bool
) -> None:
    rows, config = speech(700, seed=5), replace(config, fixed_shapes=fixed)
    plan = Plan.from_utterances(rows, config, seed=1)
    for rank in range(world_size):
        for cost in (WHISPER.activation_bytes, lambda shape: shape.seconds):
            sampler = BucketedBatchSampler(
                plan, config, updates=0, rank=rank, world_size=world_size, pass_cost=cost
            )
            epoch = replace(sampler, updates=plan.num_updates(1))
            shapes = [
                Shape(
                    len(rows),
                    rows[0].frames,
                    rows[0].label_length or max(map(sampler._tokens, rows)),
                )
                for rows in epoch
            ]
            assert sampler.largest() == max(shapes, key=cost)
