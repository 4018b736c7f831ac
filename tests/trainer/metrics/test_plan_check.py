"""A run is held against its plan once, over what it has really made, and never stopped by it."""

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from accelerate import Accelerator

from data.atomic_files import write_json
from data.batch import Shape
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.plan_check import (
    Forecast,
    PlanCheck,
    UpdateTime,
    conditions,
    plan_path,
    read_forecast,
)
from trainer.metrics.recorder import Recorder
from trainer.plan.benchmark import fit_line, representative_updates
from trainer.plan.workload import Pass, Update

PACE = UpdateTime(update=0.5, flop=1e-12, decode=0.001, alone=False)
FORECAST = Forecast(pace=PACE, update_seconds=2.0, scoring_seconds=60.0, of={"seed": 0})
TINY = WhisperFlops(d_model=384, encoder_layers=4, decoder_layers=4, n_mels=80, vocabulary=51865)


def metrics(update: float, *, clips: float = 8.0) -> dict[str, float]:
    """Return a line of metrics: updates of 1.5 TFLOP, which the plan gives 2 s, take `update`."""
    return {
        "speed/updates_per_second": 1 / update,
        "speed/clips_per_second": clips / update,
        "speed/audio_seconds_per_second": 40 / update,
        "speed/flops_per_second": 1.5e12 / update,
    }


def test_after_50_updates_it_is_told_once_and_by_how_much_it_is_off() -> None:
    comparison = PlanCheck(FORECAST, step=0, steps=1050, processes=1)
    assert comparison.add(25, metrics(1.6)) is None
    assert comparison.add(25, {"dev/error": 0.5}) is None
    now = datetime.now()
    told = comparison.add(50, metrics(1.6)) or ""
    assert told.startswith("after 50 updates: 5.0 clips/s; the plan said 4.0 (+25%)")
    left = timedelta(seconds=1000 * 2.0 / 1.25 + 60 * 1000 / 1050)
    ends = [f"{now + left + timedelta(seconds=late):%Y-%m-%d %H:%M}" for late in (0, 5)]
    assert told.rsplit("at ", 1)[1] in ends
    assert comparison.add(75, metrics(1.6)) is None


def test_a_resumed_run_counts_its_own_updates_and_one_that_rolled_back_none_twice() -> None:
    comparison = PlanCheck(FORECAST, step=100, steps=1000, processes=1)
    assert comparison.add(140, metrics(2.0)) is None
    assert comparison.add(120, metrics(2.0)) is None  # back at an older checkpoint
    assert "after 60 updates: 4.0 clips/s; the plan said 4.0 (+0%)" in (
        comparison.add(140, metrics(2.0)) or ""
    )


def test_workers_that_are_too_slow_decide_and_are_shared_by_no_process() -> None:
    slow = replace(PACE, decode=0.1)
    assert PACE.seconds(updates=1, flops=1.5e12, audio=40) == 2.0
    assert slow.seconds(updates=1, flops=1.5e12, audio=40) == 4.0
    assert replace(slow, alone=True).seconds(updates=1, flops=1.5e12, audio=40) == 6.0
    forecast = replace(FORECAST, pace=slow)
    for processes, said in ((1, "2.0"), (4, "4.0")):  # 40 s of audio: 4 s, and 1 s, to decode
        comparison = PlanCheck(forecast, step=0, steps=100, processes=processes)
        assert f"the plan said {said} " in (comparison.add(50, metrics(2.0)) or "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"forecast": {"pace": {}}}', '{"forecast": null}']
)
def test_what_is_no_plan_of_this_version_is_none(tmp_path: Path, text: str) -> None:
    path = plan_path(tmp_path / "runs" / "mine")
    assert read_forecast(path) is None
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert read_forecast(path) is None


def test_a_plan_is_read_back_and_only_compared_with_its_own_circumstances(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator = Accelerator(cpu=True)
    shape = {"seed": 0, "data": "abc", "optim.lr": 1e-5, "loop.max_steps": 9}
    of = conditions(accelerator, shape)
    assert conditions(accelerator, shape | {"optim.lr": 1.0, "loop.max_steps": 8}) == of
    forecast = replace(FORECAST, of=of)
    path = tmp_path / ".plan" / "run.json"
    write_json(path, {"forecast": asdict(forecast)})
    assert read_forecast(path) == forecast
    for other, told in ((of, ""), ({**of, "data": "abd"}, "data was abc in the plan, but is abd")):
        recorder = Recorder(tmp_path, accelerator)
        recorder.compare_with_plan(path, other, 0, 100)
        assert told in capsys.readouterr().out
        assert (recorder.plan_check is None) == bool(told)


def test_the_line_is_that_of_what_was_measured_and_never_falls() -> None:
    flops = [1e12, 2e12, 5e12]
    assert fit_line(flops, [0.3 + 2e-12 * f for f in flops]) == pytest.approx((0.3, 2e-12))
    assert fit_line([1e12, 1.1e12], [3.0, 1.2]) == (0.0, pytest.approx(2e-12))  # too much alike
    assert fit_line(flops, [3.0, 3.0, 2.0]) == (0.0, pytest.approx(1e-12))  # noise
    assert fit_line([1e12, 2e12], [1.0, 3.0]) == (0.0, pytest.approx(4 / 3 * 1e-12))
    assert fit_line([4e12], [2.0]) == (0.0, pytest.approx(5e-13))


def test_the_updates_that_are_made_lie_in_the_middle_of_each_third_of_the_compute() -> None:
    shapes = [Shape(4, 16 * (1 + number), 20) for number in range(180)]
    updates = [
        Update(
            passes=[Pass(shape, 60)],
            clips=4,
            seconds=shape.seconds,
            targets=60,
            positions=2 * shape.frames,
            slots=80,
        )
        for shape in reversed(shapes)
    ]
    numbers = representative_updates(updates, TINY)
    cost = sorted(each.flops(TINY) for each in updates)
    for part, number in enumerate(numbers):
        below = sum(each for each in cost if each < updates[number].flops(TINY))
        assert below / sum(cost) == pytest.approx((2 * part + 1) / 6, abs=0.02)
    assert representative_updates(updates[:1], TINY) == [0]
