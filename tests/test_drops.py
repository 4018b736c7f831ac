"""Clips that fail while training are named once, and not too many may."""

import json
from pathlib import Path

import pytest

from data.config import DataConfig
from data.errors import InputError
from data.utterance import Drop
from trainer.drops import DropLog


def drop(name: str, reason: str = "unreadable") -> Drop:
    """Return a drop of training."""
    return Drop(split="train", id=name, audio=f"/{name}.mp3", reason=reason)


def named(path: Path) -> list[str]:
    """Return the ids that a log holds."""
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_clip_that_fails_in_every_epoch_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    path.touch()
    first, second = (DropLog(path, DataConfig(), 100) for _ in range(2))  # two processes
    first.add([drop("a")])
    second.add([drop("a"), drop("b")])
    first.add([drop("a")])
    first.add([])
    assert named(path) == ["a", "b"]
    assert (first.take(), second.take(), first.take()) == (1, 1, 0)


def test_clips_that_killed_a_decoder_are_known_to_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    path.touch()
    log = DropLog(path, DataConfig(), 100)
    log.add([drop("a"), drop("b", "kills the decoder"), drop("c", "hangs the decoder")])
    assert DropLog(path, DataConfig(), 100).lethal == ["b", "c"]


def test_more_than_the_limit_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    path.touch()
    DropLog(path, DataConfig(), 300).add([drop("a"), drop("b", "too long"), drop("c")])
    log = DropLog(path, DataConfig(), 300)  # a later start: two of three are broken
    log.count(1)
    log.count(0)
    with pytest.raises(InputError, match=r"4 of 300 clips .* data\.max_broken=0\.01"):
        log.count(1)


def test_one_clip_may_always_break(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    path.touch()
    log = DropLog(path, DataConfig(), 5)
    log.count(1)
    with pytest.raises(InputError, match="2 of 5"):
        log.count(1)


def test_what_the_user_accepts_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "drops.jsonl"
    path.touch()
    log = DropLog(path, DataConfig(missing="drop"), 5)
    log.add([drop("a", "missing"), drop("b", "missing"), drop("c", "truncated")])
    assert log.take() == 1
