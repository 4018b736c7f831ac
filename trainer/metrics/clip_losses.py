"""losses.jsonl: what each clip's transcript cost in each update, for `python -m eval label-errors`.

Training's own forward knows the loss of every target token: it is kept on the device, and read
where a log line is due, in one copy. One row an update, whatever the number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from data.atomic_files import truncate_jsonl
from data.batch import Batch
from eval.label_errors.excess_loss import LOSSES
from trainer.metrics.recorder import JsonlLog, NullRecorder, Recorder
from trainer.step import StepResult

DIGITS = 4  # of nats

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Update:
    """This process's share of an update, not read yet."""

    step: int
    epoch: int
    ids: list[str]
    tokens: list[int]  # targets of each clip: those of one lie together, in the clips' order
    nll: list[Tensor]
    finite: Tensor


class ClipLosses:
    """Keeps the loss of every clip that training hears. Every process calls as often."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, recorder: Recorder | NullRecorder
    ) -> None:
        """Take the run's folder, the other processes, and what tells of a full disk."""
        self.path = folder / LOSSES
        self._accelerator = accelerator
        self._log = JsonlLog(self.path, recorder)
        self._unread: list[_Update] = []

    def add(self, step: int, batches: Sequence[Batch], result: StepResult) -> None:
        """Keep an update: nothing is read from the device."""
        clips = [
            (name, count)
            for batch in batches
            for name, count in zip(batch.ids, batch.tokens, strict=True)
            if count  # else it failed, and has no target
        ]
        self._unread.append(
            _Update(
                step=step,
                epoch=batches[0].position.epoch,
                ids=[name for name, _ in clips],
                tokens=[count for _, count in clips],
                nll=result.nll,
                finite=result.finite,
            )
        )

    def write(self) -> None:
        """Write what all processes kept since the last call; it waits for the device."""
        rows = _merged(gather_object(self._read()))
        if self._accelerator.is_main_process:
            self._log.append(rows)

    def rewind(self, step: int) -> None:
        """Forget what came after an update: of a future that was given up, or another run's."""
        self._unread = [each for each in self._unread if each.step <= step]
        self._log.unwritten = [row for row in self._log.unwritten if row["step"] <= step]
        if self._accelerator.is_main_process:
            truncate_jsonl(self.path, lambda row: row["step"] > step)

    def _read(self) -> list[Row]:
        """Return a row for each update that was made, in one copy from the device."""
        updates, self._unread = self._unread, []
        if not updates:
            return []
        finite = torch.stack([each.finite for each in updates]).tolist()
        lengths = [sum(each.tokens) for each in updates]
        all_nll = torch.cat([nll for each in updates for nll in each.nll]).double().cpu()
        parts = zip(updates, finite, all_nll.split(lengths), strict=True)
        return [_row(update, nll) for update, made, nll in parts if made]


def _row(update: _Update, nll: Tensor) -> Row:
    """Add up each clip's targets."""
    starts = np.cumsum([0, *update.tokens[:-1]])
    sums = np.add.reduceat(nll.numpy(), starts) if update.tokens else np.zeros(0)
    return {
        "step": update.step,
        "epoch": update.epoch,
        "ids": update.ids,
        "tokens": update.tokens,
        "nll": [round(each, DIGITS) for each in sums.tolist()],
    }


def _merged(rows: Sequence[Row]) -> list[Row]:
    """Put together what the processes bring to one update."""
    updates: dict[int, Row] = {}
    for row in rows:
        if whole := updates.get(row["step"]):
            for key in ("ids", "tokens", "nll"):
                whole[key] += row[key]
        else:
            updates[row["step"]] = row
    return list(updates.values())
