"""Coverage of bootstrap intervals, and significance of paired differences."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.metrics import confidence_intervals as bootstrap
from eval.metrics.confidence_intervals import (
    MIN_SPEAKERS,
    Interval,
    bootstrap_intervals,
    paired_bootstrap,
    percent,
)


def nobody(count: int) -> list[str | None]:
    """Return that no utterance's speaker is known."""
    return [None] * count


def one(edits: Any, units: Any, speakers: list[str | None] | None = None) -> Interval:
    """Return the interval of one figure."""
    edits, units = np.array(edits)[:, None], np.array(units)[:, None]
    found = bootstrap_intervals(edits, units, speakers or nobody(len(edits)))
    assert found is not None
    return found[0]


def naive_bootstrap(edits: NDArray[Any], units: NDArray[Any]) -> tuple[float, float]:
    """Bootstrap as a textbook writes it."""
    rng = np.random.default_rng(7)
    rates = []
    for _ in range(4000):
        picked = rng.integers(len(edits), size=len(edits))
        rates.append(edits[picked].sum() / units[picked].sum())
    return float(np.quantile(rates, 0.025)), float(np.quantile(rates, 0.975))


def test_intervals_equal_those_of_a_naive_bootstrap() -> None:
    rng = np.random.default_rng(1)
    edits, units = rng.poisson(1.0, 80), rng.integers(3, 12, 80)
    found = one(edits, units)
    assert (found.low, found.high) == pytest.approx(naive_bootstrap(edits, units), abs=0.004)
    assert found.low < edits.sum() / units.sum() < found.high


def test_about_95_of_100_intervals_cover_the_true_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_RESAMPLES", 1000)
    rng, held = np.random.default_rng(2), 0
    for _ in range(200):
        found = one(rng.binomial(10, 0.1, 100), np.full(100, 10))
        held += found.low <= 0.1 <= found.high
    assert 180 <= held <= 198


def test_the_same_figures_give_the_same_interval() -> None:
    assert one([1, 0, 2], [3, 4, 5]) == one([1, 0, 2], [3, 4, 5])


def test_many_utterances_need_no_more_memory_and_give_a_narrow_interval() -> None:
    edits = np.arange(20_000) % 3
    found = one(edits, np.full(20_000, 10))
    assert found.low == pytest.approx(0.1 - 1.96 * 0.0817 / 20_000**0.5, abs=0.0002)
    assert found.high - found.low < 0.003


def test_resampling_in_chunks_gives_the_same_number_of_resamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = one([1, 0, 2, 5], [3, 4, 5, 6])
    monkeypatch.setattr(bootstrap, "DRAWS_IN_MEMORY", 4 * 37)
    parts = one([1, 0, 2, 5], [3, 4, 5, 6])
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02)


def test_speakers_are_resampled_if_enough_are_known_else_utterances() -> None:
    edits, units = np.repeat([0, 5] * 10, 10), np.full(200, 10)  # a speaker's are all alike
    speakers: list[str | None] = [str(n) for n in np.repeat(np.arange(20), 10)]
    alone, together = one(edits, units), one(edits, units, speakers)
    assert (alone.drawn, together.drawn) == ("utterances", "speakers")
    assert together.high - together.low > 2 * (alone.high - alone.low)
    few: list[str | None] = [str(n % (MIN_SPEAKERS - 1)) for n in range(200)]
    assert one(edits, units, few) == alone


def test_utterances_of_unknown_speakers_are_resampled_one_by_one() -> None:
    known: list[str | None] = [str(n) for n in range(MIN_SPEAKERS)]
    edits, units = np.arange(40) % 4, np.full(40, 10)
    told = one(edits, units, known + nobody(30))
    assert told.drawn == "speakers"
    alone = one(edits, units)
    assert (told.low, told.high) == (alone.low, alone.high)


def test_one_utterance_has_no_interval() -> None:
    assert bootstrap_intervals(np.array([[1]]), np.array([[3]]), nobody(1)) is None
    assert bootstrap_intervals(np.zeros((0, 4), int), np.zeros((0, 4), int), []) is None
    single = paired_bootstrap(np.array([3]), np.array([1]), np.array([4]), nobody(1))
    assert (single.interval, single.chance, single.significant) == (None, 0.5, False)
    assert single.verdict == "no difference can be shown: -50.0 points"
    assert single.to_json()["interval"] is None


def test_several_metrics_are_resampled_together_and_no_units_are_no_error() -> None:
    edits = np.array([[1, 0], [0, 0], [2, 0]])
    found = bootstrap_intervals(edits, np.array([[4, 0], [4, 0], [4, 0]]), nobody(3))
    assert found is not None
    assert found[0] == one(edits[:, 0], [4, 4, 4])
    assert (found[1].low, found[1].high) == (0.0, 0.0)


def test_a_better_model_is_reported_as_better() -> None:
    rng = np.random.default_rng(3)
    units = np.full(400, 10)
    first = rng.binomial(10, 0.3, 400)
    second = rng.binomial(first, 0.7)
    found = paired_bootstrap(first, second, units, nobody(400))
    assert found.significant
    assert found.interval is not None
    assert found.interval.low < found.change < found.interval.high < 0
    assert found.verdict.startswith("B is better: -")
    assert (found.worse, found.better + found.equal) == (0, 400)
    assert found.chance == 1.0
    back = paired_bootstrap(second, first, units, nobody(400))
    assert back.verdict.startswith("B is worse: +")
    assert back.change == pytest.approx(-found.change)


def test_a_paired_test_is_significant_where_single_intervals_overlap() -> None:
    rng = np.random.default_rng(4)
    units = np.full(300, 20)
    hard = rng.binomial(20, rng.uniform(0, 1, 300))  # utterances differ far more than the models
    better = np.maximum(hard - (rng.random(300) < 0.2), 0)
    apart = [one(each, units) for each in (hard, better)]
    assert apart[0].low < apart[1].high
    assert paired_bootstrap(hard, better, units, nobody(300)).significant


def test_models_with_equal_errors_do_not_differ() -> None:
    same = np.array([1, 0, 2, 3])
    found = paired_bootstrap(same, same, np.full(4, 10), nobody(4))
    assert found.verdict == "no difference can be shown: +0.0 points (+0.0 to +0.0)"
    assert (found.better, found.worse, found.equal, found.chance) == (0, 0, 4, 0.5)


def test_the_false_positive_rate_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_RESAMPLES", 1000)
    rng, told = np.random.default_rng(5), 0
    for _ in range(200):
        first, second = rng.binomial(10, 0.2, (2, 100))
        told += paired_bootstrap(first, second, np.full(100, 10), nobody(100)).significant
    assert told <= 20


def test_a_rate_is_formatted_with_its_interval() -> None:
    interval = Interval(low=0.0321, high=0.0604, drawn="utterances")
    assert percent(0.0451, interval) == "4.51 % (3.2 to 6.0)"
    assert percent(0.0451) == "4.51 %"
    assert interval.to_json() == {"interval": [0.0321, 0.0604], "bootstrap": "utterances"}
