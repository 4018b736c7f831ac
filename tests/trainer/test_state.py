"""TrainState is saved as JSON and loaded, and records the best evaluation."""

import json

import pytest

from data.batch import Position
from data.errors import InputError
from trainer.state import Totals, TrainState


def test_state_survives_json() -> None:
    state = TrainState()
    state.advance(Position(2, 7), Totals(tokens=10, audio_seconds=1.5, dropped=0))
    state.record_evaluation(0.25, better=True)
    restored = TrainState()
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert restored == state
    assert restored.position == Position(2, 7)


def test_evaluations_since_the_best_are_counted() -> None:
    state = TrainState(step=1)
    state.record_evaluation(0.5, better=True)
    state.step = 2
    state.record_evaluation(0.4, better=False)  # chance, says the test
    assert (
        state.best_step,
        state.best_error,
        state.evaluations_since_best,
        state.evaluated_step,
    ) == (1, 0.5, 1, 2)
    state.step = 3
    state.record_evaluation(0.45, better=True)
    assert (state.best_step, state.best_error, state.evaluations_since_best) == (3, 0.45, 0)


@pytest.mark.parametrize("change", [{"more": 1}, {"step": None}])
def test_another_versions_state_is_refused(change: dict[str, object]) -> None:
    saved = TrainState().state_dict() | change
    if change.get("step", 0) is None:
        del saved["step"]
    with pytest.raises(InputError, match=r"state\.json"):
        TrainState().load_state_dict(saved)
