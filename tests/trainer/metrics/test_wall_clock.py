"""A run tells where its time goes."""

import time

import pytest

from trainer.metrics.wall_clock import WallClock


def test_shares_add_up_and_what_is_on_no_account_is_training() -> None:
    clock = WallClock()
    with clock.measure("saving"):
        time.sleep(0.02)
    with clock.measure("evaluation"):
        time.sleep(0.04)
    shares = clock.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert (clock.seconds_of("saving") >= 0.02, clock.seconds_of("evaluation") >= 0.04) == (
        True,
        True,
    )
    assert min(shares["time/saving_share"], shares["time/evaluation_share"]) > 0
    assert shares["time/waiting_share"] == 0
    assert shares["time/training_share"] >= 0


def test_an_account_grows_also_where_something_fails() -> None:
    clock = WallClock()
    with pytest.raises(KeyError), clock.measure("saving"):
        raise KeyError
    assert clock.seconds_of("saving") > 0
    assert "saving" in clock.summary()
