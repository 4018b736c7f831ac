"""Sums over processes do not wait for a GPU, and no process waits forever at its end."""

import gc
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import free_port
from tests.forked import FORKS, STARTED, run_module
from tests.parent_death import die_with_parent
from tests.trainer.process.test_signals import ENDLESS, trains, wait_for
from trainer.distributed.collectives import closing_process_group, sum_over_processes
from trainer.process.signals import STOPPED
from trainer.process.watchdog import Watchdog

ENDS = 300
QUICK = 6  # of them, in the default suite
LANES = 6  # at once: a busy machine is what it takes

ON_THE_CPU = """
from types import SimpleNamespace
import torch
from trainer.distributed.collectives import sum_over_processes
torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
far = SimpleNamespace(num_processes=2, device=torch.device("meta"))  # its values cannot be read
print(sum_over_processes(far, [1.5, 2.0]))
torch.distributed.destroy_process_group()
"""


def test_the_totals_of_an_update_are_added_up_on_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ON_THE_CPU)
    done = run_module(str(tmp_path / "program.py"))
    assert done.stdout.strip() == "[1.5, 2.0]", done.stderr


def note_what_is_left(notes: Path) -> None:
    """Note how many models of several processes there are when the process group is destroyed."""
    destroy = torch.distributed.destroy_process_group

    def noting(*arguments: Any) -> None:
        left = sum(isinstance(each, DistributedDataParallel) for each in gc.get_objects())
        (notes / os.environ["RANK"]).write_text(str(left))
        destroy(*arguments)

    torch.distributed.destroy_process_group = noting


@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "stopped"])
def test_what_holds_the_process_group_is_gone_before_the_group(
    trainer: Any, tmp_path: Path, losses: Any, stopped: bool
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    notes.mkdir()
    extra = ENDLESS if stopped else ("--loop.max_steps=2",)
    both = trainer.start(run, *extra, processes=2, sabotage=partial(note_what_is_left, notes))
    if stopped:
        wait_for(trains(run, losses), both[0])
        os.kill(both[1].pid, signal.SIGTERM)
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [STOPPED if stopped else 0] * 2
    assert [(notes / rank).read_text() for rank in "01"] == ["0", "0"]


def train_and_end(rank: int, port: int) -> None:
    """Be one of two processes that make some updates and end."""
    from accelerate import Accelerator

    die_with_parent()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    with closing_process_group(accelerator, Watchdog(60.0)):
        make_updates(accelerator)


def make_updates(accelerator: Any) -> None:
    """Use and destroy the process group as a run does."""
    model: Any = torch.nn.Linear(4, 4)
    model = accelerator.prepare(model)
    for _ in range(3):
        sum_over_processes(accelerator, [1.0] * 5)
        accelerator.backward(model(torch.ones(2, 4)).sum())
    accelerator.wait_for_everyone()


def end_often(times: int) -> None:
    """End pairs of processes, some at once; none hangs or fails."""
    for _ in range(0, times, LANES):
        ports = [free_port() for _ in range(LANES)]
        pairs = [(rank, port) for port in ports for rank in (0, 1)]
        processes = [FORKS.Process(target=train_and_end, args=pair) for pair in pairs]
        for process in processes:
            process.start()
            STARTED.append(process)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * len(processes)


def test_two_processes_end_together() -> None:
    end_often(QUICK)


@pytest.mark.slow
def test_two_processes_end_together_hundreds_of_times() -> None:
    end_often(ENDS)
