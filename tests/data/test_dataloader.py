"""Data loaders: the same batches for any number of workers, and no clip is lost."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.batch import IGNORE_INDEX, Batch, Position
from data.config import DataConfig
from data.corpora import read
from data.dataloader import BatchPreparer, eval_batches, train_batches
from data.labels import LabelEncoder
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from data.utterance import Utterance
from eval.whisper import load_whisper

WriteClip = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def label_encoder(blank_model: Path) -> LabelEncoder:
    """Return a LabelEncoder that supports en and zh."""
    return load_whisper(str(blank_model)).labels()


@pytest.fixture
def config(tone_corpus: Path) -> DataConfig:
    """Return a DataConfig of the tone corpus, without workers."""
    return DataConfig(
        corpus=(str(tone_corpus),),
        update_seconds=12.0,
        max_seconds_per_forward=7.0,
        pad="bucket",
        workers=0,
    )


def utterances_of(config: DataConfig, label_encoder: LabelEncoder) -> list[Utterance]:
    """Return the training split with token counts."""
    rows = list(read(config, "train"))
    counts = label_encoder.count_tokens([u.text for u in rows], [u.language or "" for u in rows])
    return [replace(u, tokens=n) for u, n in zip(rows, counts, strict=True)]


def batches(
    rows: Sequence[Utterance],
    config: DataConfig,
    label_encoder: LabelEncoder,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> list[Batch]:
    """Return the batches of an epoch."""
    plan = Plan.from_utterances(rows, config, seed=0)
    sampler = BucketedBatchSampler(plan, config, updates=1, rank=rank, world_size=world_size)
    passes = train_batches(rows, config, BatchPreparer(label_encoder, 80), sampler)
    return list(passes.start(Position(), plan.num_updates(1)))


def test_an_epoch_of_batches_holds_every_utterance_once(
    config: DataConfig, label_encoder: LabelEncoder
) -> None:
    rows = utterances_of(config, label_encoder)
    passes = batches(rows, config, label_encoder)
    assert sorted(name for b in passes for name in b.ids) == sorted(u.id for u in rows)
    assert sum(sum(b.seconds) for b in passes) == pytest.approx(sum(u.seconds for u in rows), abs=2)
    assert sum(sum(b.tokens) for b in passes) == sum(u.tokens - 1 for u in rows)
    assert {b.features.dtype for b in passes} == {torch.float32}
    assert all(min(b.worker_seconds.values()) > 0 and not b.drops for b in passes)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_change_no_bit(
    workers: int, config: DataConfig, label_encoder: LabelEncoder
) -> None:
    rows = utterances_of(config, label_encoder)
    alone = batches(rows, config, label_encoder)
    together = batches(rows, replace(config, workers=workers, prefetch=1), label_encoder)
    for a, b in zip(alone, together, strict=True):
        assert (a.ids, a.next_position, a.is_last, a.seconds) == (
            b.ids,
            b.next_position,
            b.is_last,
            b.seconds,
        )
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.decoder_input_ids, b.decoder_input_ids)
        assert torch.equal(a.features, b.features)


@pytest.mark.parametrize("workers", [0, 2])
def test_passes_begin_anywhere_and_as_often_as_asked(
    workers: int, config: DataConfig, label_encoder: LabelEncoder
) -> None:
    rows, config = (
        utterances_of(config, label_encoder),
        replace(config, workers=workers, prefetch=1),
    )
    plan = Plan.from_utterances(rows, config, seed=0)
    passes = train_batches(
        rows,
        config,
        BatchPreparer(label_encoder, 80),
        BucketedBatchSampler(plan, config, updates=1),
    )
    before = multiprocessing.active_children()
    whole = [(b.ids, b.next_position) for b in passes.start(Position(), plan.num_updates(2))]
    abandoned = passes.start(Position(), plan.num_updates(2))
    begun = [next(abandoned) for _ in range(4)]
    back = next(b.next_position for b in begun if b.is_last)
    again = passes.start(back, plan.num_updates(2) - 1)
    assert len(multiprocessing.active_children()) == len(before)  # nobody works on for nothing
    rest = [(b.ids, b.next_position) for b in again]
    assert rest == whole[-len(rest) :]
    assert whole[-len(rest) - 1][1] == back
    gone = [Position(0, 1), Position(1, 0)]
    fewer = [b.position for b in passes.start(Position(), plan.num_updates(2) - 2, gone)]
    assert set(fewer) == {Position(e, n) for e in (0, 1) for n in range(plan.num_updates(1))} - {
        *gone
    }
    next(passes.start(Position(), 1))
    passes.close()
    assert len(multiprocessing.active_children()) == len(before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_has_no_weight_and_is_named(
    workers: int, copied: Path, config: DataConfig, label_encoder: LabelEncoder
) -> None:
    config = replace(config, corpus=(str(copied),), workers=workers)
    rows = utterances_of(config, label_encoder)
    before = batches(rows, config, label_encoder)
    Path(rows[3].audio).unlink()
    Path(rows[5].audio).write_bytes(b"no longer audio")
    after = batches(rows, config, label_encoder)
    assert [b.ids for b in after] == [b.ids for b in before]
    assert [b.features.shape for b in after] == [b.features.shape for b in before]
    drops = {drop.id: drop for b in after for drop in b.drops}
    assert drops.keys() == {rows[3].id, rows[5].id}
    assert drops[rows[3].id].reason == "missing"
    assert drops[rows[5].id].reason == "unreadable"
    assert {d.split for d in drops.values()} == {"train"}
    for batch in after:
        for row, name in enumerate(batch.ids):
            assert (batch.seconds[row] == 0.0) == (name in drops)
            assert (batch.tokens[row] == 0) == (name in drops)
            assert bool((batch.labels[row] == IGNORE_INDEX).all()) == (name in drops)


def test_a_file_that_grew_does_not_break_its_batch(
    copied: Path, config: DataConfig, label_encoder: LabelEncoder, write_clip: WriteClip
) -> None:
    # or clip_durations.tsv is wrong and data.scan=header: the encoder takes 30 s and no more
    config = replace(config, corpus=(str(copied),))
    rows = utterances_of(config, label_encoder)
    shapes = [b.features.shape for b in batches(rows, config, label_encoder)]
    write_clip(Path(rows[3].audio), 31.0, 16_000)
    passes = batches(rows, config, label_encoder)
    assert [b.features.shape for b in passes] == shapes
    assert [drop.id for b in passes for drop in b.drops] == [rows[3].id]


def test_a_clip_a_little_longer_than_the_table_says_stays_in_its_window(
    tmp_path: Path, config: DataConfig, label_encoder: LabelEncoder, write_clip: WriteClip
) -> None:
    # an mp3's encoder adds up to 0.1 s; with data.scan=header nobody sees it before the encoder
    path = write_clip(tmp_path / "long.wav", 30.03)
    u = Utterance(id="a", audio=str(path), text="one", language="en", seconds=29.98, tokens=6)
    found = [
        *batches([u], config, label_encoder),
        *eval_batches([u], config, BatchPreparer(label_encoder, 80), [[0]]),
    ]
    assert [b.features.shape[-1] for b in found] == [3000, 3000]
    assert not any(b.drops for b in found)


def test_a_process_short_of_clips_makes_as_many_passes(
    config: DataConfig, label_encoder: LabelEncoder
) -> None:
    rows = utterances_of(config, label_encoder)[:3]
    config = replace(config, update_clips=3)
    ranks = [batches(rows, config, label_encoder, rank=rank, world_size=4) for rank in range(4)]
    assert [len(passes) for passes in ranks] == [1] * 4
    (nothing,) = ranks[3]
    assert (nothing.ids, nothing.seconds, nothing.tokens) == ([], [], [])
    assert nothing.drops == []


def test_training_pads_as_the_user_says(config: DataConfig, label_encoder: LabelEncoder) -> None:
    config = replace(config, max_seconds_per_forward=120.0, update_clips=1)
    rows = utterances_of(config, label_encoder)[:8]
    ways = {"30s": {"pad": "30s"}, "bucket": {}, "silence": {"trailing_silence": 0.8}}
    lengths = {
        name: {b.features.shape[-1] for b in batches(rows, replace(config, **knobs), label_encoder)}  # type: ignore[arg-type]
        for name, knobs in ways.items()
    }
    assert lengths["30s"] == {3000}
    assert max(lengths["bucket"]) < 500
    assert min(lengths["silence"]) < 500 < max(lengths["silence"])


def test_evaluation_keeps_its_groups_and_pads_to_30_s(
    config: DataConfig, label_encoder: LabelEncoder
) -> None:
    rows = utterances_of(config, label_encoder)
    groups = [[3, 1], [0], [7, 6, 5]]
    found = list(eval_batches(rows, config, BatchPreparer(label_encoder, 128), groups))
    assert [b.ids for b in found] == [[rows[i].id for i in group] for group in groups]
    assert {tuple(b.features.shape[1:]) for b in found} == {(128, 3000)}
    assert list(eval_batches(rows, config, BatchPreparer(label_encoder, 80), [])) == []


def test_evaluation_hears_long_audio_whole(
    tmp_path: Path, config: DataConfig, label_encoder: LabelEncoder, write_clip: WriteClip
) -> None:
    path = write_clip(tmp_path / "long.wav", 31.005)
    u = Utterance(id="long", audio=str(path), text="one", language="en", seconds=31.005)
    (batch,) = eval_batches([u], config, BatchPreparer(label_encoder, 80), [[0]])
    assert batch.features.shape == (1, 80, 3101)


@pytest.mark.gpu
def test_a_gpu_computes_the_features_that_workers_would(
    config: DataConfig, label_encoder: LabelEncoder
) -> None:
    rows, gpu = utterances_of(config, label_encoder), torch.device("cuda")
    groups = [[0, 1], [2]]
    ours = eval_batches(rows, config, BatchPreparer(label_encoder, 80), groups)
    theirs = eval_batches(rows, config, BatchPreparer(label_encoder, 80, gpu), groups)
    for here, there in zip(ours, theirs, strict=True):
        assert there.features.is_cuda
        torch.testing.assert_close(there.features.cpu(), here.features, atol=1e-4, rtol=0)
