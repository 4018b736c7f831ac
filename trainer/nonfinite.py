"""Updates whose loss or gradient was not a number: counted, named, and in the end passed over."""

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

COLLAPSED = 1e-5  # of fp16's loss scale, from 65536: nothing finite is left below (icefall's limit)
FIRST_SCALE = 65536.0  # torch's default
MAX_ROLLBACKS = 3  # of a run: the data or the learning rate are at fault then


@dataclass(kw_only=True, slots=True)
class _Update:
    """An update whose outcome was not read yet."""

    finite: Tensor  # on the CPU; complete once `ready` is
    ready: torch.cuda.Event | None
    position: Position
    ids: list[str]


class NonFiniteGuard:
    """Reads whether updates were made, one update late: reading at once would stall the GPU."""

    def __init__(self, accelerator: Accelerator, log: JsonlLog, patience: int) -> None:
        """Take the file that names what failed, and how many in a row are too many."""
        self._scaler: Any = accelerator.scaler
        self._rank, self._main = accelerator.process_index, accelerator.is_main_process
        self._log = log
        self._patience = patience
        self._searching = accelerator.scaler is not None  # for a first scale without overflow
        self._unread: _Update | None = None

    def check(self, state: TrainState, batches: Sequence[Batch], result: StepResult) -> bool:
        """Take in an update, read the one before; return whether too many in a row have failed."""
        self.settle(state)
        ready = None
        finite = result.finite.detach().to("cpu", non_blocking=True)
        if result.finite.is_cuda:
            ready = torch.cuda.Event()
            ready.record()
        ids = [name for batch in batches for name in batch.ids]
        self._unread = _Update(finite=finite, ready=ready, position=batches[0].position, ids=ids)
        return len(state.failed) >= self._patience

    def settle(self, state: TrainState) -> None:
        """Read the last update's outcome into the state: before it is saved, and at the end.

        Every process must call.

        Raises:
            InputError: fp16's loss scale has collapsed.
        """
        row = self._read(state)
        if row is not None:
            rows = gather_object([row])  # no process has another norm: all are here
            if self._main:
                self._log.append(rows)

    def settle_alone(self, state: TrainState) -> None:
        """Do so where an error ends training on this process: the others may be waiting elsewhere.

        Raises:
            InputError: as settle().
        """
        row = self._read(state)
        if row is not None:
            append_jsonl(self._log.path, [row])

    def _read(self, state: TrainState) -> dict[str, Any] | None:
        """Return what names the last update's clips here, where it was not made."""
        update, self._unread = self._unread, None
        if update is None:
            return None
        if update.ready is not None:
            update.ready.synchronize()
        if bool(update.finite):
            self._searching = False
            state.failed = []
            return None
        self._refuse_collapse()
        if self._searching:
            return None
        state.skipped += 1
        state.failed = [*state.failed, list(update.position)]
        epoch, number = update.position
        return {"epoch": epoch, "update": number, "process": self._rank, "ids": update.ids}

    def forget(self) -> None:
        """Leave the last update unread: a rollback has undone it."""
        self._unread = None

    def _refuse_collapse(self) -> None:
        if self._scaler is not None and (scale := self._scaler.get_scale()) < COLLAPSED:
            self._scaler.update(FIRST_SCALE)  # what is saved now shall not begin collapsed
            raise InputError(
                f"fp16's loss scale fell to {scale:.1e}: gradients overflow at "
                "any scale; set precision to bf16 or fp32, or lower optim.lr, and go on with "
                "--resume=auto"
            )


def refuse_rollback(state: TrainState) -> None:
    """End a run that has rolled back too often; a start that goes on counts failures anew.

    Raises:
        InputError: it has.
    """
    if state.rollbacks == MAX_ROLLBACKS:
        state.failed = []
        raise InputError(
            f"after {MAX_ROLLBACKS} rollbacks updates still give no finite gradient: look at the "
            "clips that nonfinite.jsonl names, or lower optim.lr, and go on with --resume=auto"
        )


def pass_over(state: TrainState, saved: TrainState) -> None:
    """Make a rolled-back state skip the updates that failed, in this run and in later ones."""
    saved.passed_over = [*state.passed_over, *state.failed]
    saved.rollbacks, saved.skipped, saved.failed = state.rollbacks + 1, state.skipped, []
