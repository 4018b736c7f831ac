"""The main process decides for all, however long it takes, and whatever happens to it."""

import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.errors import InputError
from eval.main_process import run_on_main_process

LIMIT = timedelta(seconds=1)  # of a collective, and of the store's own waiting
WORLD = 3


def be(rank: int, folder: Path, question: Callable[[], Any]) -> None:
    """Be one of several processes, and write down what was decided."""
    port = int((folder / "port").read_text())
    store = torch.distributed.TCPStore("127.0.0.1", port, timeout=LIMIT)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=WORLD, timeout=LIMIT
    )
    accelerator: Any = SimpleNamespace(num_processes=WORLD, is_main_process=rank == 0)
    try:
        answers = [
            run_on_main_process(accelerator, question),
            run_on_main_process(accelerator, lambda: rank),
        ]
    except Exception as error:
        answers = [type(error).__name__, str(error)]
    (folder / f"{rank}").write_text(repr(answers))


def ask(folder: Path, question: Callable[[], Any]) -> list[str]:
    """Return what each process was told."""
    # the store lives here, as it does in torchrun's agent
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=LIMIT)
    (folder / "port").write_text(str(store.port))
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=be, args=(rank, folder, question)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * WORLD
    return [(folder / str(rank)).read_text() for rank in range(WORLD)]


def slow() -> str:
    """Answer after the time-out of all collectives."""
    time.sleep(3)
    return f"asked of {os.getpid()}"


def mistaken() -> None:
    """Find a mistake of the user's, late."""
    time.sleep(2)
    raise InputError("no such folder")


def faulty() -> None:
    """Fail in another way."""
    raise KeyError("key")


def unspeakable() -> Callable[[], None]:
    """Give an answer that cannot be told to another process."""
    return lambda: None


def test_all_hear_the_main_processs_answer_however_long_it_takes(tmp_path: Path) -> None:
    told = ask(tmp_path, slow)
    assert len(set(told)) == 1
    assert told[0].startswith("['asked of ")
    assert told[0].endswith(", 0]")  # and of the next question


def test_a_mistake_is_raised_on_all(tmp_path: Path) -> None:
    assert ask(tmp_path, mistaken) == ["['InputError', 'no such folder']"] * WORLD


@pytest.mark.parametrize("question", [faulty, unspeakable])
def test_when_the_main_process_fails_the_others_do_not_wait(
    question: Callable[[], Any], tmp_path: Path
) -> None:
    first, *others = ask(tmp_path, question)
    kind = first.split("'")[1]
    assert kind in ("KeyError", "PicklingError", "AttributeError")
    for told in others:
        assert "RuntimeError" in told
        assert f"the main process failed: {kind}" in told


def test_a_single_process_calls_the_function_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.distributed.distributed_c10d, "_get_default_store")
    alone: Any = SimpleNamespace(num_processes=1, is_main_process=True)
    assert run_on_main_process(alone, partial(int, "7")) == 7
    with pytest.raises(InputError, match="no such folder"):
        run_on_main_process(alone, mistaken)
