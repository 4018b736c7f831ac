"""Runs that are killed at random moments and resumed end with exactly the same model.

The runs have dropout, epochs that end on the way, evaluations that find a better model or do not,
and a width and batch at which bits differ as soon as something is not the same. Between kills they
are started twice at once, sent back to older checkpoints, lose their newest one, and fail in an
update or in an evaluation. `pytest -m slow tests/test_crash.py -s` makes the large campaigns and
prints their tables.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.campaign import Campaign, Losses
from tests.sabotage import OTHERS


def campaign(
    made: Campaign,
    losses: Losses,
    *,
    kills: int,
    events: list[int],
    others: int,
    longest: float,
) -> None:
    """Kill a run at random and at given events, let it end, and compare it with a whole one.

    Some strikes come too late, after the run's end, and are not counted.

    Args:
        made: the run, and the whole one.
        losses: reads a run's losses.
        kills: at random.
        events: of a save, at which it dies.
        others: how often each of the other things befalls it.
        longest: seconds until a kill.
    """
    rng = made.rng
    plan: list[Callable[[], None]] = [partial(made.die, event) for event in events]
    plan += [partial(made.kill, rng.uniform(0, longest)) for _ in range(kills)]
    for _ in range(others):
        for strike in (made.rewind, made.damage, made.start_twice):
            plan.append(partial(strike, rng.uniform(0, longest)))
        for where in OTHERS[-2:]:
            plan.append(partial(made.err, where, rng.randrange(1, 5)))
    rng.shuffle(plan)
    for strike in plan:
        strike()
        last = list((made.run / "checkpoints").glob("step-00000008*"))
        if last:  # nothing is left to be killed: compare, and begin again, or go back
            made.finish(made.run)
            made.compare(losses)
            rng.choice((made.begin_again, partial(made.rewind, 1.0), partial(made.damage, 1.0)))()
    made.finish(made.run)
    made.compare(losses)


def test_ten_kills_and_errors_change_nothing(
    wide_trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    made = Campaign(wide_trainer, tmp_path, 1, seed=1)
    events = [made.rng.randrange(1, 100) for _ in range(3)]
    campaign(made, losses, kills=2, events=events, others=1, longest=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_and_errors_change_nothing(
    wide_trainer: Any, tmp_path: Path, losses: Losses, processes: int
) -> None:
    made = Campaign(wide_trainer, tmp_path, processes, seed=processes)
    events = [made.rng.randrange(1, 100) for _ in range(9)]
    campaign(made, losses, kills=6, events=events, others=1, longest=4.0)
    Console().print(made.table(f"{processes} processes"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_two_hundred_kills_change_nothing(
    wide_trainer: Any, tmp_path: Path, losses: Losses, processes: int
) -> None:
    made = Campaign(wide_trainer, tmp_path, processes, seed=10 + processes)
    events = made.rng.sample(range(1, 140), 60)
    campaign(made, losses, kills=80, events=events, others=12, longest=5.0)
    Console().print(made.table(f"{processes} processes"))
    assert made.landed.total() >= 100
    assert made.landed["inside a save"] >= 40
    assert all(made.others[other] >= 5 for other in OTHERS)


def test_a_damaged_newest_checkpoint_costs_its_updates_and_nothing_else(
    wide_trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    made = Campaign(wide_trainer, tmp_path, 1, seed=1)
    shutil.copytree(made.whole.parent, made.run.parent, dirs_exist_ok=True)
    newest = made.run / "checkpoints" / "step-00000008" / "optimizer.bin"
    os.truncate(newest, newest.stat().st_size // 2)
    made.finish(made.run)
    log = (tmp_path / "run.0.log").read_text()
    assert "step-00000008 is skipped" in log
    assert "resuming after update 6" in log
    made.compare(losses)
