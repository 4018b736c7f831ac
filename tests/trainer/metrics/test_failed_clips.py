"""Clips that fail while training are named once, by the main process, and not too many may."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from data.atomic_files import write_jsonl
from data.config import DataConfig
from data.errors import InputError
from data.utterance import Drop
from trainer.metrics.failed_clips import DropLog
from trainer.metrics.recorder import JsonlLog, NullRecorder


def drop(name: str, reason: str = "unreadable") -> Drop:
    """Return a drop of training."""
    return Drop(split="train", id=name, audio=f"/{name}.mp3", reason=reason)


def named(path: Path) -> list[str]:
    """Return the ids that a log holds."""
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def log_of(path: Path, clips: int = 1000, config: DataConfig | None = None) -> DropLog:
    """Return the log of a start, on one process."""
    path.touch()
    return DropLog(
        JsonlLog(path, NullRecorder()), config or DataConfig(), clips, Accelerator(cpu=True)
    )


def told(log: DropLog, *drops: Drop) -> int:
    """Have clips fail in an update; return how many seemed new."""
    log.add(drops)
    fresh = log.num_unlogged()
    log.write(fresh)
    return fresh


def test_a_clip_that_fails_in_every_epoch_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    log = log_of(path)
    told(log, drop("a"), drop("a"))
    assert told(log) == told(log, drop("a")) == 0
    told(log, drop("a"), drop("b"))
    assert told(log_of(path), drop("b"), drop("c")) == 1  # a later start
    assert named(path) == ["a", "b", "c"]


def test_the_file_is_read_once_however_many_clips_fail(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    log = log_of(path)
    path.unlink()
    for name in "abc":
        told(log, drop(name))
    assert named(path) == ["a", "b", "c"]


def lose_what_others_write() -> None:
    """Be on a mount where the lines that a second machine appends are lost."""
    import trainer.metrics.failed_clips

    if os.environ["RANK"] != "0":
        trainer.metrics.failed_clips.append_jsonl = lambda *_: None


def test_what_fails_on_any_process_is_named_by_the_main_one(
    trainer: Any, copied: Path, tmp_path: Path
) -> None:
    run, knobs = tmp_path / "run", (f"--data.corpus={copied}", "--data.max_broken_share=0.5")
    trainer(run, *knobs, "--loop.max_steps=1")
    gone = sorted((copied / "clips").glob("*train*"))[:8]
    for path in gone:
        path.unlink()
    more = ("--loop.max_steps=8", "--resume=auto", "--data.missing_audio=drop")
    trainer(run, *knobs, *more, processes=2, sabotage=lose_what_others_write)
    rows = [json.loads(line) for line in (run / "drops.jsonl").read_text().splitlines()]
    assert sorted(row["audio"] for row in rows) == sorted(map(str, gone))


def test_clips_that_killed_a_decoder_are_known_to_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    log = log_of(path)
    told(log, drop("a"), drop("b", "kills the decoder"), drop("c", "hangs the decoder"))
    assert log.fatal == log_of(path).fatal == ["b", "c"]


def test_more_than_the_limit_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    told(log_of(path, 300), drop("a"), drop("b", "too long"), drop("c"))
    log = log_of(path, 300)  # a later start: two of three are broken
    told(log, drop("d"))
    told(log)
    with pytest.raises(InputError, match=r"4 of 300 clips .* data\.max_broken_share=0\.01"):
        told(log, drop("e"))
    assert named(path) == ["a", "b", "c", "d", "e"]


def test_one_clip_may_always_break(tmp_path: Path) -> None:
    log = log_of(tmp_path / "drops.jsonl", 5)
    told(log, drop("a"))
    with pytest.raises(InputError, match="2 of 5"):
        told(log, drop("b"))


def test_what_the_user_accepts_is_named_and_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    log = log_of(path, 5, DataConfig(missing_audio="drop"))
    told(log, drop("a", "missing"), drop("b", "missing"), drop("c", "truncated"))
    assert named(path) == ["a", "b", "c"]


def test_a_line_that_a_crash_cut_off_is_named_again(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    write_jsonl(path, [{"split": "train", "id": "a", "audio": "", "reason": "silent"}])
    log = log_of(path)
    assert told(log, drop("a")) == 0
