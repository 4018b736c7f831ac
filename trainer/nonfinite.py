"""NonFiniteGuard: detects and logs updates whose loss or gradient is NaN or infinite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from data.atomic_files import append_jsonl
from data.batch import Batch, Position
from data.errors import InputError
from trainer.metrics.recorder import JsonlLog
from trainer.state import TrainState
from trainer.step import StepResult

INITIAL_SCALE = 65536.0  # of GradScaler, its default
MIN_SCALE = 1e-5  # gradients are not finite at any scale below (icefall's limit)
MAX_ROLLBACKS = 3  # more mean that the data or the learning rate are at fault


@dataclass(kw_only=True, slots=True)
class _Update:
    """An update whose outcome was not read from the device yet."""

    finite: Tensor  # on the CPU; valid after `ready`
    ready: torch.cuda.Event | None
    position: Position
    ids: list[str]


class NonFiniteGuard:
    """Reads whether an update was finite one update later: reading at once would stall the GPU."""

    def __init__(self, accelerator: Accelerator, log: JsonlLog, patience: int) -> None:
        """Create a guard.

        Args:
            accelerator: its GradScaler is checked too.
            log: nonfinite.jsonl, which lists the clips of these updates.
            patience: number of these updates in a row that triggers a rollback.
        """
        self._scaler: Any = accelerator.scaler
        self._rank, self._main = accelerator.process_index, accelerator.is_main_process
        self._log = log
        self._patience = patience
        # GradScaler starts with overflows until it finds a scale: these updates do not count
        self._finding_scale = accelerator.scaler is not None
        self._unread: _Update | None = None

    def check(self, state: TrainState, batches: Sequence[Batch], result: StepResult) -> bool:
        """Add an update, read the one before; return whether too many in a row were not finite."""
        self.read_outcome(state)
        ready = None
        finite = result.finite.detach().to("cpu", non_blocking=True)
        if result.finite.is_cuda:
            ready = torch.cuda.Event()
            ready.record()
        ids = [name for batch in batches for name in batch.ids]
        self._unread = _Update(finite=finite, ready=ready, position=batches[0].position, ids=ids)
        return len(state.failed) >= self._patience

    def read_outcome(self, state: TrainState) -> None:
        """Read the last update's outcome into the state, and log it. Call it before a save.

        All processes must call this.

        Raises:
            InputError: fp16's loss scale fell below MIN_SCALE.
        """
        row = self._read(state)
        if row is not None:
            rows = gather_object([row])  # the norm is the same on all processes, so all come here
            if self._main:
                self._log.append(rows)

    def read_outcome_alone(self, state: TrainState) -> None:
        """Do the same without the other processes, after an error on this process.

        Raises:
            InputError: as read_outcome().
        """
        row = self._read(state)
        if row is not None:
            append_jsonl(self._log.path, [row])

    def _read(self, state: TrainState) -> dict[str, Any] | None:
        """Return the log row of the last update, or None if it was finite or was read before."""
        update, self._unread = self._unread, None
        if update is None:
            return None
        if update.ready is not None:
            update.ready.synchronize()
        if bool(update.finite):
            self._finding_scale = False
            state.failed = []
            return None
        self._check_loss_scale()
        if self._finding_scale:
            return None
        state.skipped += 1
        state.failed = [*state.failed, list(update.position)]
        epoch, number = update.position
        return {"epoch": epoch, "update": number, "process": self._rank, "ids": update.ids}

    def discard_unread(self) -> None:
        """Discard the last update, which a rollback undid."""
        self._unread = None

    def _check_loss_scale(self) -> None:
        if self._scaler is not None and (scale := self._scaler.get_scale()) < MIN_SCALE:
            # a checkpoint saved now must not start at this scale
            self._scaler.update(INITIAL_SCALE)
            raise InputError(
                f"fp16's loss scale fell to {scale:.1e}: gradients overflow at any scale; set "
                "precision to bf16 or fp32, or lower optim.lr, and resume with --resume=auto"
            )


def refuse_more_rollbacks(state: TrainState) -> None:
    """End the run if it rolled back too often; a resume counts failures from 0.

    Raises:
        InputError: it rolled back MAX_ROLLBACKS times.
    """
    if state.rollbacks == MAX_ROLLBACKS:
        state.failed = []
        raise InputError(
            f"gradients are still not finite after {MAX_ROLLBACKS} rollbacks: check the clips in "
            "nonfinite.jsonl, or lower optim.lr, and resume with --resume=auto"
        )


def exclude_failed_updates(state: TrainState, saved: TrainState) -> None:
    """Make the state of a checkpoint skip the updates that failed in the state before it."""
    saved.passed_over = [*state.passed_over, *state.failed]
    saved.rollbacks, saved.skipped, saved.failed = state.rollbacks + 1, state.skipped, []
