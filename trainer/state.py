"""TrainState: the progress of training, the same on every process and saved as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, Self

from data.batch import Batch, Position
from data.errors import InputError


class Totals(NamedTuple):
    """Counts of an update, on one process or summed over all."""

    tokens: int  # target tokens
    audio_seconds: float  # without padding
    dropped: int  # failed clips that were not logged before

    @classmethod
    def of(cls, batches: Sequence[Batch], dropped: int = 0) -> Self:
        """Count the forward passes of one process."""
        tokens = sum(sum(batch.tokens) for batch in batches)
        return cls(tokens, sum(sum(batch.seconds) for batch in batches), dropped)


@dataclass(kw_only=True, slots=True)
class TrainState:
    """The progress of training; randomness and learning rate are functions of it."""

    step: int = 0  # updates made
    epoch: int = 0  # of the next update
    update: int = 0  # index of the next update in the plan of its epoch
    tokens: int = 0  # target tokens trained on
    audio_seconds: float = 0.0  # audio trained on, without padding
    best_error: float | None = None  # of the best model on the sample of dev; a fraction
    best_step: int = 0  # update of the best model; 0: none
    evaluations_since_best: int = 0
    evaluated_step: int = 0  # the last update that was evaluated
    skipped: int = 0  # updates whose loss or gradient was not finite
    failed: list[list[int]] = field(default_factory=list)  # positions of those in a row so far
    passed_over: list[list[int]] = field(default_factory=list)  # positions to skip
    rollbacks: int = 0  # returns to a checkpoint, after too many such updates in a row

    @property
    def position(self) -> Position:
        """Return the next update's position in the plan."""
        return Position(self.epoch, self.update)

    @property
    def skipped_positions(self) -> set[Position]:
        """Return the positions in the plan that training skips."""
        return {Position(*position) for position in self.passed_over}

    def advance(self, next_position: Position, totals: Totals) -> None:
        """Count an update."""
        self.step += 1
        self.epoch, self.update = next_position
        self.tokens += totals.tokens
        self.audio_seconds += totals.audio_seconds

    def record_evaluation(self, error: float, *, better: bool, on_disk: bool = True) -> None:
        """Record an evaluation of the current model.

        Args:
            error: a fraction.
            better: whether the model is the best so far.
            on_disk: whether its checkpoint is on disk; otherwise it does not become the best.
        """
        self.evaluated_step = self.step
        if not better:
            self.evaluations_since_best += 1
        elif on_disk:
            self.best_error, self.best_step = error, self.step
            self.evaluations_since_best = 0

    def reset_best(self) -> None:
        """Forget the best model, because it was lost: the next evaluation makes a new best."""
        self.best_error, self.best_step, self.evaluations_since_best = None, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return all fields, as values for JSON."""
        return asdict(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load saved progress.

        Raises:
            InputError: a key is missing or unknown, because another version wrote it.
        """
        known = {field.name for field in fields(self)}
        if set(saved) != known:
            different = sorted(known ^ set(saved))
            raise InputError(
                f"state.json was written by another version: keys {', '.join(different)} differ; "
                "resume with that version (environment.json names it)"
            )
        for key, value in saved.items():
            setattr(self, key, value)
