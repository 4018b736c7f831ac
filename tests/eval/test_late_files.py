"""Processes wait for files of the main process that an NFS client does not show yet."""

import errno
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data.errors import InputError
from eval.main_process import wait_until_visible

KNOBS = ("--data.dev_split=dev", "--eval.max_length=4", "--loop.eval_every=1", "--loop.max_steps=1")


def forget(run: Path) -> None:
    """Have the second process miss every file of a run, until it has listed the file's folder."""
    listed: set[str] = set()

    def late(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **knobs: Any) -> Any:
            inside = str(path).startswith(f"{run}/")
            if inside and os.path.dirname(path) not in listed:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return function(path, *arguments, **knobs)

        return call

    listdir = os.listdir

    def list_folder(path: Any = ".") -> list[Any]:
        listed.add(str(path))
        return listdir(path)

    if os.environ["RANK"] == "1":
        os.stat, io.open = late(os.stat), late(io.open)
        os.listdir = list_folder  # type: ignore[assignment]


def test_processes_wait_until_new_files_are_visible(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for extra in ((), ("--resume=auto", "--loop.max_steps=2")):
        done = trainer(run, *KNOBS, *extra, processes=2, sabotage=partial(forget, run))
        assert "Traceback" not in done.output


def test_a_file_that_never_becomes_visible_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"new/manifest\.jsonl: .* a folder that all machines share"
    ):
        wait_until_visible(tmp_path / "new" / "manifest.jsonl", seconds=0.1)
