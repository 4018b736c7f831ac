"""The learning rate is a function of the update; only matrices have weight decay."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from data.errors import InputError
from trainer.optimizer import OptimConfig, build_optimizer, lr_at


def test_constant_with_warm_up_rises_to_the_peak_and_stays() -> None:
    config = OptimConfig(lr=1.0, warmup=4)
    assert [lr_at(update, 100, config) for update in (1, 2, 3, 4, 5, 100)] == [
        0.25,
        0.5,
        0.75,
        1.0,
        1.0,
        1.0,
    ]


def test_the_first_update_moves_weights() -> None:
    assert lr_at(1, 10, OptimConfig(warmup=50)) > 0
    assert lr_at(1, 10, OptimConfig(warmup=0)) == OptimConfig().lr


@pytest.mark.parametrize("warmup", [0, 1, 5, 49, 50])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_other_schedules_fall_from_the_peak_so_that_the_last_update_still_moves_weights(
    schedule: str, warmup: int
) -> None:
    config = OptimConfig(lr=1.0, warmup=warmup, schedule=schedule)
    peak = max(1, warmup)
    rates = [lr_at(update, 50, config) for update in range(peak, 51)]
    assert rates[0] == 1.0
    assert rates[-1] > 0
    assert lr_at(51, 50, config) == pytest.approx(0.0, abs=1e-12)  # one more would not
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize(
    ("schedule", "stock"),
    [
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
    ],
)
def test_without_warm_up_they_are_those_of_transformers(
    schedule: str, stock: Callable[..., LRScheduler]
) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = stock(optimizer, num_warmup_steps=0, num_training_steps=9)
    for update in range(1, 10):
        config = OptimConfig(lr=1.0, warmup=0, schedule=schedule)
        assert lr_at(update, 9, config) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_biases_and_norms_do_not_decay_and_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    model[2].requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.1))
    matrices, others = optimizer.param_groups
    assert [p.dim() for p in matrices["params"]] == [2]
    assert [p.dim() for p in others["params"]] == [1, 1, 1]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(("key", "value"), [("lr", 0.0), ("warmup", -1), ("max_norm", 0.0)])
def test_values_that_could_not_work_are_refused(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"optim.{key}"):
        OptimConfig(**{key: value})
