"""The learning rate is a function of the update; only matrices decay."""

import pytest
from torch import nn

from data.errors import InputError
from trainer.optim import OptimConfig, build_optimizer, lr_at


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


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_other_schedules_end_at_zero_and_never_rise_after_the_warm_up(schedule: str) -> None:
    config = OptimConfig(lr=1.0, warmup=5, schedule=schedule)
    rates = [lr_at(update, 50, config) for update in range(5, 51)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.0)
    assert rates == sorted(rates, reverse=True)


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
