"""What each clip costs is kept: it adds up to the loss, once a clip, and follows the run back."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from data.atomic_files import read_jsonl
from data.batch import Batch, Position
from data.batching.collate import Clip, PaddingCollator, Sample
from data.log_mel import LogMel
from data.sampling.bucketed_sampler import SampleSpec
from data.utterance import Drop, Utterance
from eval.whisper import Whisper, load_whisper
from trainer.distributed.engine import Engine
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.recorder import NullRecorder
from trainer.model import ModelConfig, prepare_training
from trainer.step import StepResult, train_step

TEXTS = ("one", "two three four five", "six", "seven eight nine zero one two")


@pytest.fixture
def whisper(blank_model: Path) -> Whisper:
    """Return a small model."""
    return load_whisper(str(blank_model))


def line(whisper: Whisper, texts: tuple[str, ...], failed: str = "") -> Batch:
    """Return a batch of one line, which holds clips of these texts."""
    generator = torch.Generator().manual_seed(0)
    clips = [
        Clip(
            utterance=Utterance(id=text, audio="", text=text, language="en"),
            waveform=0.1 * torch.randn(16_000, generator=generator),
            drop=Drop(split="train", id=text, audio="", reason="gone") if text == failed else None,
        )
        for text in texts
    ]
    draw = SampleSpec((), Position(2, 5), Position(2, 6), is_last=True, frames=400)
    return PaddingCollator(whisper.labels(), LogMel(80))([Sample(clips=clips, spec=draw)])


def update(whisper: Whisper, batches: list[Batch]) -> StepResult:
    """Make an update that moves no weight."""
    module = prepare_training(whisper, ModelConfig())
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, fused=True)
    tokens = sum(sum(batch.tokens) for batch in batches)
    for batch in batches:
        batch.is_last = batch is batches[-1]
    engine = Engine(Accelerator(cpu=True), module, optimizer)
    return train_step(engine, batches, tokens=tokens, max_norm=1)


def kept(folder: Path) -> ClipLosses:
    """Return the log of a run on one process."""
    losses = ClipLosses(folder, Accelerator(cpu=True), NullRecorder())
    losses.rewind(0)
    return losses


def test_the_losses_of_clips_add_up_to_the_updates(whisper: Whisper, tmp_path: Path) -> None:
    batches = [line(whisper, TEXTS[:3]), line(whisper, TEXTS[3:]), line(whisper, ())]
    result, losses = update(whisper, batches), kept(tmp_path)
    losses.add(7, batches, result)
    losses.write()
    (row,) = read_jsonl(losses.path)
    assert (row["step"], row["epoch"], row["ids"]) == (7, 2, list(TEXTS))
    assert row["tokens"] == [count for batch in batches for count in batch.tokens]
    assert sum(row["nll"]) == pytest.approx(result.loss.item(), abs=1e-3)
    assert sum(row["tokens"]) == sum(len(nll) for nll in result.nll)


def test_of_a_window_of_clips_each_has_its_own_targets(whisper: Whisper) -> None:
    encoder = whisper.labels()
    batch = line(whisper, TEXTS, failed=TEXTS[2])
    sound = [text for text in TEXTS if text != TEXTS[2]]
    pieces = encoder.encode_texts(sound, "en")
    prefix = encoder.prefix("en")[1:]  # the start token is no target
    held = iter(batch.labels[0].split(batch.tokens))
    found = dict(zip(batch.ids, ([*each.tolist()] for each in held), strict=True))
    assert found[TEXTS[0]] == [*prefix, *pieces[0]]
    assert found[TEXTS[1]] == pieces[1]
    assert found[TEXTS[2]] == []
    assert found[TEXTS[3]] == [*pieces[2], encoder.end_id]


def test_a_clip_that_failed_and_an_update_that_was_not_made_cost_nothing(
    whisper: Whisper, tmp_path: Path
) -> None:
    losses = kept(tmp_path)
    batches = [line(whisper, TEXTS[:2], failed=TEXTS[0])]
    losses.add(1, batches, update(whisper, batches))
    broken = [line(whisper, TEXTS[2:])]
    broken[0].features[:] = torch.nan
    losses.add(2, broken, update(whisper, broken))
    losses.write()
    losses.write()  # nothing is new
    assert [(row["step"], row["ids"]) for row in read_jsonl(losses.path)] == [(1, [TEXTS[1]])]


def test_a_rewound_run_forgets_what_came_after(whisper: Whisper, tmp_path: Path) -> None:
    losses, batches = kept(tmp_path), [line(whisper, TEXTS[:1])]
    result = update(whisper, batches)
    for step in (1, 2, 3):
        losses.add(step, batches, result)
    losses.write()
    losses.add(4, batches, result)
    with losses.path.open("a") as file:
        file.write('{"step": 4, "ep')  # a crash cut it off
    losses.rewind(2)
    losses.write()
    assert [row["step"] for row in read_jsonl(losses.path)] == [1, 2]
    losses.add(3, batches, result)
    losses.write()
    assert [row["step"] for row in read_jsonl(losses.path)] == [1, 2, 3]
    losses.rewind(0)  # another run in the same folder
    assert losses.path.read_bytes() == b""


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run."""
    return list(read_jsonl(run / "losses.jsonl"))


def test_a_run_writes_each_clip_once_an_epoch_and_a_resume_changes_nothing(
    trainer: Any, tmp_path: Path, tone_corpus: Path
) -> None:
    extra = ("--log.log_every=4", "--data.update_clips=8")  # an epoch is three updates
    whole, cut = trainer.reference(), tmp_path / "cut"  # how often is logged changes nothing
    trainer(cut, *extra, "--loop.max_steps=3")
    assert [row["step"] for row in rows_of(cut)] == [1, 2, 3]
    trainer(cut, *extra, "--resume=auto")
    assert rows_of(cut) == rows_of(whole)
    for epoch in (0, 1):
        heard = Counter(n for row in rows_of(whole) if row["epoch"] == epoch for n in row["ids"])
        assert (len(heard), set(heard.values())) == (24, {1})
    trainer(cut, *extra, f"--resume={cut / 'checkpoints' / 'step-00000003'}")
    assert rows_of(cut) == rows_of(whole)


def test_two_processes_write_each_clip_once(trainer: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    extra = ("--data.pad=packed", "--data.update_clips=5", "--loop.max_steps=5", "--optim.lr=1e-6")
    trainer(one, *extra)
    trainer(two, *extra, processes=2)
    for alone, shared in zip(rows_of(one), rows_of(two), strict=True):
        assert sorted(alone["ids"]) == sorted(shared["ids"])
        assert sum(alone["tokens"]) == sum(shared["tokens"])
        assert sum(alone["nll"]) == pytest.approx(sum(shared["nll"]), rel=1e-4)
    losses = [json.loads(each) for each in (two / "metrics.jsonl").read_text().splitlines()]
    told = [row["train/loss"] for row in losses if "train/loss" in row]
    assert told == pytest.approx(
        [sum(row["nll"]) / sum(row["tokens"]) for row in rows_of(two)], rel=1e-4
    )
