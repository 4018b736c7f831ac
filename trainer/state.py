"""All progress there is: the same on every process, saved as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, Self

from data.batch import Batch, Position
from data.errors import InputError


class Totals(NamedTuple):
    """What an update holds: on one process, or on all of them together."""

    tokens: int  # target tokens
    audio_seconds: float  # of real audio
    dropped: int  # clips that failed, named for the first time

    @classmethod
    def of(cls, batches: Sequence[Batch], dropped: int = 0) -> Self:
        """Count the passes of one process."""
        tokens = sum(sum(batch.tokens) for batch in batches)
        return cls(tokens, sum(sum(batch.seconds) for batch in batches), dropped)


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Where training stands. Randomness and learning rate are functions of this."""

    step: int = 0  # updates made
    epoch: int = 0  # the next update is this one in the plan …
    update: int = 0  # … of this epoch
    tokens: int = 0  # target tokens trained on
    audio_seconds: float = 0.0  # of real audio trained on
    best_error: float | None = None  # on the clips of dev that models are chosen by; a fraction
    best_step: int = 0
    evaluations_since_best: int = 0
    evaluated_step: int = 0  # the last update that was evaluated
    skipped: int = 0  # updates whose loss or gradient was not finite
    failed: list[list[int]] = field(default_factory=list)  # positions of the last ones, in a row
    passed_over: list[list[int]] = field(default_factory=list)  # positions that are not drawn again
    rollbacks: int = 0  # returns to a checkpoint after too many in a row

    @property
    def position(self) -> Position:
        """Return the next update's place in the plan."""
        return Position(self.epoch, self.update)

    @property
    def gone(self) -> set[Position]:
        """Return the positions that training passes over."""
        return {Position(*position) for position in self.passed_over}

    def advance(self, after: Position, totals: Totals) -> None:
        """Count an update; `after` is the place of the next one in the plan."""
        self.step += 1
        self.epoch, self.update = after
        self.tokens += totals.tokens
        self.audio_seconds += totals.audio_seconds

    def note_evaluation(self, error: float, *, better: bool, on_disk: bool = True) -> None:
        """Take note of an evaluation.

        Args:
            error: a fraction.
            better: whether it is the best so far.
            on_disk: whether its checkpoint is; one that is not does not become the best.
        """
        self.evaluated_step = self.step
        if not better:
            self.evaluations_since_best += 1
        elif on_disk:
            self.best_error, self.best_step = error, self.step
            self.evaluations_since_best = 0

    def reset_best(self) -> None:
        """Choose anew from the next evaluation on: the best model is no longer there."""
        self.best_error, self.best_step, self.evaluations_since_best = None, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over saved progress.

        Raises:
            InputError: a key is missing or unknown: another version wrote it.
        """
        known = {field.name for field in fields(self)}
        if set(saved) != known:
            odd = sorted(known ^ set(saved))
            raise InputError(
                f"state.json does not fit this version: keys {', '.join(odd)} differ; "
                "resume with the version that wrote it (environment.json names it)"
            )
        for key, value in saved.items():
            setattr(self, key, value)
