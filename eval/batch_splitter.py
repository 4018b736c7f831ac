"""Split evaluation batches that do not fit in memory."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import torch

from data.batch import Batch, target_positions
from data.errors import InputError
from eval.device import out_of_memory
from eval.generate import DecodeResult


class BatchSplitter:
    """Halves a batch after an out-of-memory error, and later batches that are larger than it."""

    def __init__(self, free_memory: Callable[[], None]) -> None:
        """Start without a limit.

        Args:
            free_memory: frees what earlier batches left, before a batch is tried again.
        """
        self._free_memory = free_memory
        self._seconds = float("inf")  # padded audio of a batch at most

    def run(self, work: Callable[[Batch], list[DecodeResult]], batch: Batch) -> list[DecodeResult]:
        """Return the results of a batch, one for each clip.

        Prints a warning if memory ran out.

        Args:
            work: computes the results of a batch.
            batch: one clip in each row.

        Raises:
            InputError: a single clip does not fit.
        """
        if batch.shape.seconds <= self._seconds or len(batch.ids) == 1:
            try:
                return work(batch)
            except RuntimeError as error:
                reason = out_of_memory(error)
            self._lower_limit(batch, reason)  # after the except block, whose error holds tensors
        return list(chain.from_iterable(self.run(work, half) for half in halves(batch)))

    def _lower_limit(self, batch: Batch, reason: str) -> None:
        clips, seconds = len(batch.ids), batch.shape.seconds
        self._free_memory()
        if clips == 1:
            raise InputError(
                f"out of memory in an evaluation batch of 1 clip, which cannot be split ({reason}):"
                " set precision=bf16, or use a smaller model"
            )
        self._seconds = seconds * -(-clips // 2) / clips  # of the larger half
        print(
            f"warning: out of memory in an evaluation batch of {clips} clips ({reason}): batches "
            f"over {self._seconds:.0f} s of padded audio are now split; set "
            f"eval.batch_seconds={self._seconds:.0f}, so that no attempt fails"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def halves(batch: Batch) -> list[Batch]:
    """Return the two halves of a batch with one clip in each row."""
    middle, end = len(batch.ids) // 2, len(batch.ids)
    return [_part(batch, slice(0, middle)), _part(batch, slice(middle, end))]


def _part(batch: Batch, rows: slice) -> Batch:
    labels = batch.labels[rows]
    return replace(
        batch,
        ids=batch.ids[rows],
        languages=batch.languages[rows],
        tasks=batch.tasks[rows],
        features=batch.features[rows],
        decoder_input_ids=batch.decoder_input_ids[rows],
        labels=labels,
        targets=target_positions(labels.cpu()).to(labels.device),
        seconds=batch.seconds[rows],
        tokens=batch.tokens[rows],
    )
