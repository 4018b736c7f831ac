"""data.fixed_shapes: few shapes, little padding, and every clip once an epoch."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, combinations, pairwise
from typing import Any

import numpy as np
import pytest

from data.audio.augment import AugmentConfig
from data.batch import Position, Shape
from data.config import DataConfig
from data.labels import MAX_TOKENS
from data.log_mel import FRAMES_PER_SECOND, N_FRAMES
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.sampling.epoch_plan import Plan
from data.sampling.padded_length import padded_frames
from data.sampling.shape_search import TOKEN_FRAMES, Sizes, choose_shapes
from data.sampling.shape_table import SILENCE_FRAMES, padded_sizes
from data.utterance import Utterance

Passes = list[list[SampleSpec]]


def corpus(clips: int, seed: int = 0) -> list[Utterance]:
    """Return utterances with the lengths of Common Voice, of two corpora, some with a prompt."""
    rng = random.Random(seed)
    rows = []
    for number in range(clips):
        seconds = min(29.99, max(1.0, rng.lognormvariate(1.5, 0.45)))
        tokens = max(2, round(3.2 * seconds + rng.gauss(4, 3)))
        row = Utterance(id=str(number), audio="", text="", seconds=seconds, tokens=tokens)
        corpus, prompt = rng.choice("ab"), rng.choice((0, 0, 7, 300))
        rows.append(replace(row, corpus=corpus, prompt_tokens=prompt))
    return rows


def epoch_of(plan: Plan, config: DataConfig, world_size: int, epochs: int = 1) -> list[Passes]:
    """Return the passes of each process in some epochs."""
    updates = plan.num_updates(epochs)
    return [
        list(BucketedBatchSampler(plan, config, updates=updates, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]


def shape_of(specs: Sequence[SampleSpec]) -> Shape:
    """Return the shape of a pass."""
    assert len({(spec.frames, spec.label_length) for spec in specs}) == 1
    return Shape(len(specs), specs[0].frames, specs[0].label_length)


BASE = DataConfig(fixed_shapes=True, update_seconds=60.0)
CONFIGS = {
    "seconds": BASE,
    "clips": replace(BASE, update_clips=7),
    "tokens": replace(BASE, update_tokens=300),
    "memory": replace(BASE, max_seconds_per_forward=20.0, quadratic_memory_seconds=30.0),
    "30s": replace(BASE, pad="30s", update_seconds=300.0),
    "silence": replace(BASE, trailing_silence=0.5),
    "speed": replace(BASE, augment=AugmentConfig(speed=(0.9, 1.0, 1.1))),
    "labels": replace(BASE, timestamp_probability=0.5, prompt_probability=0.5),
    "weights": replace(BASE, corpus=("a", "b"), weights=(0.3, 2.5)),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@pytest.mark.parametrize("world_size", [1, 8])
@pytest.mark.parametrize(
    "budget", [{"update_seconds": 120.0}, {"update_seconds": 480.0}, {"update_clips": 24}], ids=str
)
def test_an_epoch_has_few_shapes_and_little_padding(budget: Any, world_size: int) -> None:
    rows, config = corpus(8000), DataConfig(fixed_shapes=True, **budget)
    ranks = epoch_of(Plan.from_utterances(rows, config, seed=0), config, world_size)
    assert max(len(set(map(shape_of, passes))) for passes in ranks) <= 32
    padded = sum(spec.frames for passes in ranks for specs in passes for spec in specs)
    audio = FRAMES_PER_SECOND * sum(u.seconds for u in rows)
    print(f"{budget}, {world_size} processes: {padded / audio - 1:.1%} of padding")
    assert padded <= 1.12 * audio


@each_config
@pytest.mark.parametrize("clips", [1, 2, 7, 900])
def test_every_clip_is_trained_on_as_often_as_its_corpus_says(
    config: DataConfig, clips: int
) -> None:
    rows = corpus(clips)
    if config.weights and clips < 900:
        rows = [replace(row, corpus="b") for row in rows]
    plan = Plan.from_utterances(rows, config, seed=0)
    drawn: Counter[int] = Counter()
    for epoch in range(10):
        updates = plan.updates(epoch)
        assert all(updates)
        drawn.update(chain(*updates))
    times = {
        row.corpus: {drawn[i] for i, u in enumerate(rows) if u.corpus == row.corpus} for row in rows
    }
    expected = {"a": {3}, "b": {25}} if config.weights else {"a": {10}, "b": {10}}
    assert times == {name: expected[name] for name in times}


@each_config
def test_all_updates_but_the_last_are_full(config: DataConfig) -> None:
    plan = Plan.from_utterances(corpus(900), config, seed=0)
    assert plan.table is not None
    short = 0
    for update in plan.updates(2):
        full = plan.table.rows.item(plan.shape_number(update))
        assert len(update) <= full
        short += len(update) < full
    assert short <= 1 + len(plan.table.rows) // 4  # some hold clips of shorter shapes alone


@each_config
@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_every_pass_has_a_shape_of_the_table(config: DataConfig, world_size: int) -> None:
    plan = Plan.from_utterances(corpus(900), config, seed=0)
    assert plan.table is not None
    table = plan.table
    padded = {(frames, tokens) for _, frames, tokens in map(table.shape, range(len(table.rows)))}
    ranks = epoch_of(plan, config, world_size, epochs=2)
    rows: dict[tuple[int, int], set[int]] = {}
    for together in zip(*ranks, strict=True):  # strict: every process makes as many passes
        assert len({(d[0].position, d[0].next_position, d[0].is_last) for d in together}) == 1
        assert any(spec.clips for specs in together for spec in specs)
        for specs in together:
            assert len({spec.position for spec in specs}) == 1
            silent = [not spec.clips for spec in specs]
            assert silent == sorted(silent)  # rows of silence come last
            count, frames, tokens = shape_of(specs)
            rows.setdefault((frames, tokens), set()).add(count)
    longer = {frames for frames, _ in rows} - {frames for frames, _ in padded}
    assert longer <= set(SILENCE_FRAMES if config.trailing_silence else ())
    if not longer:
        assert rows.keys() <= padded
        assert (
            sum(map(len, rows.values())) <= 2 * len(padded) + 2
        )  # full on one more process or less


@each_config
def test_a_clip_at_any_speed_and_its_label_fit(config: DataConfig) -> None:
    rows = corpus(900)
    plan = Plan.from_utterances(rows, config, seed=0)
    for passes in epoch_of(plan, config, 2, epochs=2):
        for spec in chain(*passes):
            for clip in spec.clips:
                length = rows[clip].tokens - 1 + spec.with_timestamps
                length += (1 + min(223, rows[clip].prompt_tokens)) * spec.with_prompt
                assert length <= spec.label_length
                assert padded_frames(plan.duration(clip, spec.position.epoch)) <= spec.frames


@each_config
def test_what_a_clip_is_padded_to_depends_neither_on_processes_nor_on_memory(
    config: DataConfig,
) -> None:
    rows = corpus(300)
    plan = Plan.from_utterances(rows, config, seed=0)

    def drawn(world_size: int, **knobs: Any) -> Counter[tuple[Position, Any, int]]:
        ranks = epoch_of(plan, replace(config, **knobs), world_size)
        specs = chain(*chain(*ranks))
        return Counter((spec.position, spec.clips, spec.frames) for spec in specs if spec.clips)

    alone = drawn(1)
    assert drawn(3) == alone
    assert drawn(8, max_seconds_per_forward=9.0, max_tokens_per_forward=100) == alone
    again = Plan.from_utterances(rows, replace(config, workers=9), seed=0)
    assert [*again.updates(3)] == [*plan.updates(3)]


def test_updates_and_passes_are_within_their_limits() -> None:
    rows = corpus(2000)
    limits = {"max_seconds_per_forward": 40.0, "max_tokens_per_forward": 300}
    config = DataConfig(fixed_shapes=True, update_seconds=200.0, update_tokens=900, **limits)
    plan = Plan.from_utterances(rows, config, seed=0)
    for update in plan.updates(0):
        assert sum(rows[i].seconds for i in update) <= 200
        assert sum(rows[i].tokens for i in update) <= 900 + len(update)
    for world_size in (1, 3):
        for specs in chain(*epoch_of(plan, config, world_size)):
            shape = shape_of(specs)
            assert shape.rows == 1 or shape.seconds <= 40
            assert shape.rows == 1 or shape.rows * shape.tokens <= 300


@each_config
@pytest.mark.parametrize("world_size", [1, 3])
def test_starting_anywhere_is_the_tail_of_a_run_from_the_start(
    config: DataConfig, world_size: int
) -> None:
    plan = Plan.from_utterances(corpus(60), config, seed=0)
    total = plan.num_updates(2) + 1
    sampler = BucketedBatchSampler(plan, config, updates=total, rank=0, world_size=world_size)
    whole, ends = list(sampler), 0
    for number, specs in enumerate(whole, 1):
        if specs[0].is_last:
            ends += 1
            rest = replace(sampler, updates=total - ends, start=specs[0].next_position)
            assert list(rest) == whole[number:]


def test_a_lower_limit_halves_the_rows_of_the_largest_pass() -> None:
    config = replace(BASE, update_seconds=480.0)
    plan = Plan.from_utterances(corpus(2000), config, seed=0)
    sampler = BucketedBatchSampler(plan, config, updates=0)
    before = sampler.largest()
    sampler.config = replace(config, max_seconds_per_forward=before.seconds / 2)
    after = sampler.largest()
    assert after.seconds <= before.seconds / 2
    assert after.seconds > before.seconds / 3


def test_windows_of_a_stream_have_the_shapes_of_its_first() -> None:
    config = replace(BASE, streaming=True)
    first = Plan.from_utterances(corpus(600), config, seed=0)
    long = [Utterance(id="long", audio="", text="", seconds=29.9, tokens=MAX_TOKENS)]
    for rows in (corpus(600, seed=1), corpus(100, seed=2) + long):
        plan = Plan.from_utterances(rows, config, seed=0, table=first.table)
        assert plan.table is first.table
        (passes,) = epoch_of(plan, config, 1)
        assert sorted(c for specs in passes for s in specs for c in s.clips) == [*range(len(rows))]
    assert shape_of(passes[-1]).rows >= 1
    assert {(N_FRAMES, MAX_TOKENS)} < {(s.frames, s.tokens) for s in map(shape_of, passes)}


def test_packed_windows_keep_their_rows_and_have_few_label_lengths() -> None:
    rows = corpus(2000)
    on = DataConfig(fixed_shapes=True, pad="packed")
    off = replace(on, fixed_shapes=False)
    with_on, with_off = (
        epoch_of(Plan.from_utterances(rows, config, seed=0), config, 1)[0] for config in (on, off)
    )
    same = [[spec._replace(label_length=0) for spec in specs] for specs in with_on]
    assert same == with_off
    assert {specs[0].label_length % 64 for specs in with_on} == {0}
    assert all(
        sum(rows[c].tokens for c in spec.clips) <= spec.label_length for spec in chain(*with_on)
    )


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_shapes_are_the_cheapest_of_all(most: int) -> None:
    rng = np.random.default_rng(most)
    sizes = Sizes(rng.integers(1, 6, 40) * 100, rng.integers(1, 4, 40) * 8, np.ones(40))

    def rows(frames: Any) -> Any:
        return 3000 // frames

    def cost(shapes: Sequence[tuple[int, int]]) -> float:
        padded = [
            next(f + TOKEN_FRAMES * t for f, t in shapes if f >= frames and t >= tokens)
            for frames, tokens, _ in zip(*sizes, strict=True)
        ]
        left = sum(
            (rows(a[0]) - 1) / 2 * (b[0] - a[0] + TOKEN_FRAMES * (b[1] - a[1]))
            for a, b in pairwise(shapes)
        )
        return left + sum(padded)

    lengths, labels = sorted({*sizes.frames.tolist()}), sorted({*sizes.tokens.tolist()})
    last = (lengths[-1], labels[-1])
    others = [(f, t) for f in lengths for t in labels if (f, t) != last]
    chains = [
        [*each, last]
        for count in range(most)
        for each in combinations(others, count)
        if all(a[1] <= b[1] for a, b in pairwise(each))  # in order of frames already
    ]
    assert cost(choose_shapes(sizes, rows, most)) == min(map(cost, chains))


def test_a_small_corpus_gets_fewer_shapes() -> None:
    for clips, most in ((10, 1), (100, 2), (1000, 20)):
        plan = Plan.from_utterances(corpus(clips), replace(BASE, update_clips=25), seed=0)
        assert plan.table is not None
        assert len(plan.table.rows) <= most


def test_the_table_holds_every_clip_and_no_shape_is_smaller_than_the_one_before() -> None:
    for config in CONFIGS.values():
        plan = Plan.from_utterances(corpus(900), config, seed=0)
        assert plan.table is not None
        frames, tokens = padded_sizes(plan.columns, config)
        assert (plan.table.frames[plan.shape_numbers] >= frames).all()
        assert (plan.table.tokens[plan.shape_numbers] >= tokens).all()
        assert (np.diff(plan.table.frames) >= 0).all()
        assert (np.diff(plan.table.tokens) >= 0).all()
        assert (np.diff(plan.table.rows) <= 0).all()
