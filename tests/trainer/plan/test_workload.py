"""The predicted workload of a plan equals that of real epochs."""

from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

from data.batch import Batch, Position, Shape
from data.config import DataConfig
from data.dataloader import BatchPreparer, train_batches
from data.labels import LabelEncoder
from data.manifest import build_manifest
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from eval.whisper import load_whisper
from trainer.plan.workload import Update, Workload, average_update, group_by_length

EPOCHS = 2


@pytest.fixture(scope="module")
def encoder(blank_model: Path) -> LabelEncoder:
    """Return the LabelEncoder."""
    return load_whisper(str(blank_model)).labels()


@pytest.fixture
def rows(tone_corpus: Path, encoder: LabelEncoder, tmp_path: Path) -> list[Utterance]:
    """Return the training split, with lengths."""
    config = DataConfig(corpus=(str(tone_corpus),), dev_split=None, test_split=None, workers=0)
    manifest, _ = build_manifest(config, encoder, tmp_path / "scan.jsonl", show=False)
    return manifest.train


def both(
    rows: list[Utterance], encoder: LabelEncoder, world: int, **knobs: Any
) -> tuple[list[Update], list[list[Batch]]]:
    """Return the updates of two epochs as they are foretold, and every process's real passes."""
    config = DataConfig(workers=0, update_clips=5, max_padding=0.05, **knobs)
    plan = Plan.from_utterances(rows, config, seed=0)
    number = plan.num_updates(EPOCHS)
    sampler = BucketedBatchSampler(plan, config, updates=0, world_size=world)
    told = list(Workload(rows, sampler, encoder).updates(number))
    made = []
    for rank in range(world):
        mine = BucketedBatchSampler(plan, config, updates=0, rank=rank, world_size=world)
        passes = train_batches(rows, config, BatchPreparer(encoder, 80), mine)
        made.append(list(passes.start(Position(), number)))
    return told, made


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("pad", ["bucket", "packed", "30s"])
def test_padding_and_passes_are_those_that_epochs_make(
    rows: list[Utterance], encoder: LabelEncoder, pad: str, world: int, fixed: bool
) -> None:
    told, made = both(
        rows,
        encoder,
        world,
        pad=pad,
        trailing_silence=0.5,
        max_seconds_per_forward=65.0,
        fixed_shapes=fixed,
    )
    mine = [(p.shape, p.targets) for update in told for p in update.passes]
    assert mine == [(b.shape, sum(b.tokens)) for b in made[0]]
    every = [batch for passes in made for batch in passes]
    assert sum(u.clips for u in told) == sum(len(b.ids) for b in every) == EPOCHS * len(rows)
    positions = sum(b.shape.rows * b.shape.frames / 2 for b in every)
    slots = sum(b.shape.rows * b.shape.tokens for b in every)
    heard, learnt = (sum(sum(getattr(b, key)) for b in every) for key in ("seconds", "tokens"))
    found = average_update(told)
    assert found["encoder_padding"] == pytest.approx(1 - 50 * heard / positions, abs=2e-3)
    assert found["decoder_padding"] == pytest.approx(1 - learnt / slots, abs=1e-12)
    assert found["shapes"] == len({batch.shape for batch in made[0]})
    assert found["passes"] == sum(len(update.passes) for update in told) / len(told)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("pad", ["bucket", "packed"])
def test_timestamp_and_prompt_tokens_are_counted(
    rows: list[Utterance], encoder: LabelEncoder, pad: str, fixed: bool
) -> None:
    timed = LabelEncoder(
        encoder.tokenizer, max_tokens=30, multilingual=True, vocabulary_size=51_865
    )
    for i, u in enumerate(rows):
        prompt = " ".join([u.text] * (i % 4))
        rows[i] = replace(u, prompt=prompt, prompt_tokens=timed.count_text_tokens([prompt])[0])
    labels = {"timestamp_probability": 0.5, "prompt_probability": 0.5}
    told, made = both(rows, timed, 2, pad=pad, fixed_shapes=fixed, **labels)
    assert [(p.shape, p.targets) for update in told for p in update.passes] == [
        (b.shape, sum(b.tokens)) for b in made[0]
    ]
    assert any(p.shape.tokens > p.targets for update in told for p in update.passes)


def test_updates_are_those_of_the_plan(rows: list[Utterance], encoder: LabelEncoder) -> None:
    told, made = both(rows, encoder, 1, pad="bucket")
    assert len(told) == sum(batch.is_last for batch in made[0])
    plan = Plan.from_utterances(
        rows, DataConfig(update_clips=5, max_padding=0.05, pad="bucket"), seed=0
    )
    expected = [len(update) for epoch in range(EPOCHS) for update in plan.updates(epoch)]
    assert [update.clips for update in told] == expected


def test_groups_by_length_hold_every_pass_and_split_no_length(
    rows: list[Utterance], encoder: LabelEncoder
) -> None:
    told, _ = both(rows, encoder, 1, trailing_silence=0.5)
    shapes = [each.shape for update in told for each in update.passes]
    for most in (1, 3, 100):
        groups = group_by_length(told, most)
        assert sorted(chain(*groups)) == sorted(shapes)
        lengths = [{shape.frames for shape in group} for group in groups]
        assert all(max(a) < min(b) for a, b in pairwise(lengths))
        assert len(groups) == min(most, len({shape.frames for shape in shapes}))


def test_a_row_without_clips_has_no_targets(encoder: LabelEncoder) -> None:
    one = Utterance(id="a", audio="", text="one", language="en", seconds=1.0, tokens=6)
    config = DataConfig(workers=0, pad="bucket")
    sampler = BucketedBatchSampler(
        Plan.from_utterances([one], config, seed=0), config, updates=0, world_size=2
    )
    (told,) = Workload([one], sampler, encoder).updates(1)
    assert told.passes[0].shape == Shape(1, 112, 5)
    assert (told.clips, told.targets, told.slots) == (1, 5, 6)
