"""losses.jsonl: the loss of every training clip, for `python -m eval label-errors`.

The token losses of the forward pass stay on the device until a log line is due, and are then read
in one copy. The file has one row per update, independent of the number of processes.
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

DIGITS = 4  # decimal places of losses, in nats

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Update:
    """The clips of an update on this process, with losses that are still on the device."""

    step: int
    epoch: int
    ids: list[str]
    tokens: list[int]  # target tokens of each clip
    nll: list[Tensor]  # loss of each target token, clip by clip
    finite: Tensor  # whether the update was made


class ClipLosses:
    """Collects the loss of every training clip; all processes must make the same calls."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, recorder: Recorder | NullRecorder
    ) -> None:
        """Create the log.

        Args:
            folder: of the run.
            accelerator: gathers the losses of all processes.
            recorder: warns if the disk is full.
        """
        self.path = folder / LOSSES
        self._accelerator = accelerator
        self._log = JsonlLog(self.path, recorder)
        self._unread: list[_Update] = []

    def add(self, step: int, batches: Sequence[Batch], result: StepResult) -> None:
        """Store the losses of an update without reading them from the device."""
        clips = [
            (name, count)
            for batch in batches
            for name, count in zip(batch.ids, batch.tokens, strict=True)
            if count  # a clip that could not be decoded has no targets
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
        """Write the losses of all processes since the last call; wait for the device."""
        rows = _merge(gather_object(self._read()))
        if self._accelerator.is_main_process:
            self._log.append(rows)

    def rewind(self, step: int) -> None:
        """Delete the rows after a step, when training resumes from it."""
        self._unread = [update for update in self._unread if update.step <= step]
        self._log.unwritten = [row for row in self._log.unwritten if row["step"] <= step]
        if self._accelerator.is_main_process:
            truncate_jsonl(self.path, lambda row: row["step"] > step)

    def _read(self) -> list[Row]:
        """Return a row for each finite update, with one copy from the device."""
        updates, self._unread = self._unread, []
        if not updates:
            return []
        finite = torch.stack([update.finite for update in updates]).tolist()
        lengths = [sum(update.tokens) for update in updates]
        all_nll = torch.cat([nll for update in updates for nll in update.nll]).double().cpu()
        parts = zip(updates, finite, all_nll.split(lengths), strict=True)
        return [_row(update, nll) for update, is_finite, nll in parts if is_finite]


def _row(update: _Update, nll: Tensor) -> Row:
    """Sum the token losses of each clip."""
    starts = np.cumsum([0, *update.tokens[:-1]])
    sums = np.add.reduceat(nll.numpy(), starts) if update.tokens else np.zeros(0)
    return {
        "step": update.step,
        "epoch": update.epoch,
        "ids": update.ids,
        "tokens": update.tokens,
        "nll": [round(loss, DIGITS) for loss in sums.tolist()],
    }


def _merge(rows: Sequence[Row]) -> list[Row]:
    """Concatenate the rows of one update from all processes."""
    updates: dict[int, Row] = {}
    for row in rows:
        if merged := updates.get(row["step"]):
            for key in ("ids", "tokens", "nll"):
                merged[key] += row[key]
        else:
            updates[row["step"]] = row
    return list(updates.values())
