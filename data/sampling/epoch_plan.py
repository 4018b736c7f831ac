"""The plan of an epoch: a list of updates, each a list of indices into the manifest.

It is a pure function of (seed, epoch, manifest, budget). It does not depend on the number of
processes or workers, nor on their memory, so these may change when a run is resumed.
"""

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.lazy_manifest import ManifestColumns
from data.log_mel import CHUNK_SECONDS
from data.sampling.buckets import make_buckets
from data.sampling.corpus_weights import mean_seconds, repetitions_of, weights_of
from data.sampling.shape_table import ShapeTable
from data.utterance import Utterance


class EpochUpdates(Sequence[list[int]]):
    """The updates of an epoch, at four bytes per clip; lists of lists would take forty."""

    def __init__(
        self, clips: NDArray[np.int32], starts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> None:
        """Store the concatenated clips of all updates.

        Args:
            clips: indices into the manifest.
            starts: offset of each update in clips, and the end of the last one.
            order: the updates as indices into starts, in the order of training.
        """
        self.clips = clips
        self.starts = starts
        self.order = order

    def __len__(self) -> int:
        """Return the number of updates."""
        return len(self.order)

    @overload
    def __getitem__(self, number: int) -> list[int]: ...

    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...

    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        """Return the clips of one update or of a slice."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        index = self.order.item(number)
        begin, end = self.starts[index : index + 2].tolist()
        clips: list[int] = self.clips[begin:end].tolist()
        return clips


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """Draws the updates of any epoch."""

    columns: ManifestColumns  # of the utterances
    weights: Mapping[str, float]  # repetitions per epoch by corpus; others have one
    buckets: Sequence[NDArray[np.int32]]  # utterances of similar duration and token count
    mean_seconds: float  # of an epoch's clips
    update_seconds: float
    update_tokens: int
    update_clips: int | None
    speeds: Sequence[float]  # one is drawn per clip and epoch; empty: unchanged
    seed: int
    table: ShapeTable | None  # the shapes that clips are padded to (data.fixed_shapes)
    shape_numbers: NDArray[np.int8]  # each utterance's index into the table; empty without one

    @classmethod
    def from_utterances(
        cls,
        utterances: Sequence[Utterance],
        config: DataConfig,
        seed: int,
        table: ShapeTable | None = None,
    ) -> "Plan":
        """Build the plan of a manifest.

        Args:
            utterances: of the manifest.
            config: padding, the budget of an update, and data.fixed_shapes.
            seed: of the order.
            table: shapes of data.fixed_shapes. None chooses them from the manifest.
        """
        columns = ManifestColumns.from_utterances(utterances)
        weights = weights_of(columns, config)
        numbers = np.zeros(0, dtype=np.int8)
        if config.fixed_shapes and config.pad != "packed":
            table = table or ShapeTable.build(columns, config, weights)
            numbers = table.numbers(columns, config)
            of_shape = (np.flatnonzero(numbers == n) for n in range(len(table.rows)))
            buckets = [bucket.astype(np.int32) for bucket in of_shape if len(bucket)]
        else:
            buckets = make_buckets(columns.seconds, columns.tokens, config)
        return cls(
            columns=columns,
            weights=weights,
            buckets=buckets,
            mean_seconds=mean_seconds(columns, weights),
            update_seconds=config.update_seconds,
            update_tokens=config.update_tokens,
            update_clips=config.update_clips,
            speeds=config.augment.speed,
            seed=seed,
            table=table,
            shape_numbers=numbers,
        )

    def updates(self, epoch: int) -> EpochUpdates:
        """Return an epoch's updates: each utterance with its repetitions, similar ones together.

        The remainders of all buckets are joined, in order of length, and cut into further updates.
        With a table of shapes, the remainder of a bucket joins the next one instead.
        """
        return _draw_updates(self, epoch)

    def seconds(self, index: int) -> float:
        """Return an utterance's duration in seconds, before speed perturbation."""
        return self.columns.seconds.item(index)

    def tokens(self, index: int) -> int:
        """Return an utterance's number of label tokens."""
        return self.columns.tokens.item(index)

    def speed(self, index: int, epoch: int) -> float:
        """Return an utterance's speed in an epoch; 1.0 if it would become too long."""
        if not self.speeds:
            return 1.0
        drawn = random.Random(f"{self.seed} {epoch} {index} speed").choice(self.speeds)
        return drawn if self.seconds(index) / drawn < CHUNK_SECONDS else 1.0

    def duration(self, index: int, epoch: int) -> float:
        """Return an utterance's duration in an epoch, in seconds, after speed perturbation."""
        return self.seconds(index) / self.speed(index, epoch)

    def num_updates(self, epochs: int) -> int:
        """Return the number of updates in the first `epochs` epochs."""
        return sum(len(self.updates(epoch)) for epoch in range(epochs))

    def shape_number(self, clips: Sequence[int] | NDArray[np.int32]) -> int:
        """Return the index into the table of the shape of an update: the largest of its clips."""
        return int(self.shape_numbers[np.asarray(clips, dtype=np.int32)].max(initial=0))

    def group_starts(self, clips: list[int]) -> list[int]:
        """Cut clips into groups within the update budget; return the offset of each group.

        With a table of shapes all groups but the last are full, and the last one may be empty.
        """
        if self.table is not None:
            rows = self.table.rows.item(self.shape_number(clips))
            return list(range(0, len(clips) + 1, rows))
        if self.update_clips is not None:
            return list(range(0, len(clips), self.update_clips)) or [0]
        max_seconds, max_tokens = self.update_seconds, self.update_tokens
        lengths = zip(
            self.columns.seconds[clips].tolist(), self.columns.tokens[clips].tolist(), strict=True
        )
        starts, seconds, tokens = [0], 0.0, 0
        for index, (more_seconds, more_tokens) in enumerate(lengths):
            seconds += more_seconds
            tokens += more_tokens
            if index > starts[-1] and (seconds > max_seconds or tokens > max_tokens):
                starts.append(index)
                seconds, tokens = more_seconds, more_tokens
        return starts


@lru_cache(maxsize=2)  # startup asks for the first epoch several times: 1 s per million clips
def _draw_updates(plan: Plan, epoch: int) -> EpochUpdates:
    rng = random.Random(f"{plan.seed} {epoch}")
    repetitions = (
        repetitions_of(plan.columns, plan.weights, plan.seed, epoch) if plan.weights else None
    )
    clips, starts = array("i"), array("q")
    rest: list[int] = []
    for indices in plan.buckets:
        due = indices if repetitions is None else np.repeat(indices, repetitions[indices])
        bucket: list[int] = due.tolist()
        if plan.table is not None:
            bucket, rest = bucket + rest, []
        rng.shuffle(bucket)
        *begins, last = plan.group_starts(bucket)
        starts.extend(len(clips) + begin for begin in begins)
        clips.extend(bucket[:last])
        rest += bucket[last:]
    if rest:
        starts.extend(len(clips) + begin for begin in plan.group_starts(rest))
        clips.extend(rest)
    order = list(range(len(starts)))
    rng.shuffle(order)
    starts.append(len(clips))
    return EpochUpdates(np.array(clips), np.array(starts), np.array(order, dtype=np.int64))
