"""BucketedBatchSampler: yields one process's forward passes of the epoch plan."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count, islice
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from data.batch import Position, Shape
from data.config import MAX_SECONDS_PER_FORWARD, DataConfig
from data.labels import PROMPT_TOKENS
from data.log_mel import FRAMES_PER_SECOND
from data.sampling.epoch_plan import Plan
from data.sampling.forward_bounds import bound_shapes
from data.sampling.rows import Row, make_rows
from data.sampling.shape_table import PACKED_LABEL_STEP, cut_update, fitting_rows, padded_tokens


class SampleSpec(NamedTuple):
    """What the dataset decodes for one row of a forward pass."""

    clips: tuple[int, ...]  # indices into the manifest, joined in order; (): silence
    position: Position  # of this row's update in the plan
    next_position: Position  # where training continues after this update
    is_last: bool  # whether this is the last forward pass of its update
    frames: int  # padded length
    with_timestamps: bool = False  # whether the labels have timestamps
    with_prompt: bool = False  # whether the labels follow the utterance's prompt
    label_length: int = 0  # tokens that labels are padded to, if the longest label has no more


@dataclass(eq=False)
class BucketedBatchSampler(Sampler[list[SampleSpec]]):
    """Yields the forward passes of one process, from any position on, epoch after epoch.

    Row i of an update belongs to rank i modulo the number of processes. All processes make equally
    many forward passes per update; those with fewer add silence without loss, since a process that
    skipped a forward pass would leave the others waiting in the gradient's all-reduce.
    """

    plan: Plan
    config: DataConfig  # `pad` forms rows; the limits per forward pass cut them
    _: KW_ONLY
    updates: int  # number of updates to yield
    start: Position = Position()  # noqa: RUF009 - immutable; seeking does not decode
    rank: int = 0  # of this process
    world_size: int = 1  # number of processes
    # updates that are neither yielded nor counted. `start` may be one of them, since next_position
    # is the plan's next one: iteration then begins at the first update that is not skipped
    skipped: Collection[Position] = ()
    # estimates a forward pass's memory, to find the largest one; by default its padded audio.
    # Must not decrease with more rows, frames or tokens
    pass_cost: Callable[[Shape], float] = attrgetter("seconds")

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        """Yield forward passes, each a list of SampleSpecs."""
        for update, position, next_position in islice(self._updates(), self.updates):
            rows = make_rows(update, position, self.plan, self.config)
            yield from self._specs(rows, position, next_position)

    def largest(self) -> Shape:
        """Return the shape of this process's most expensive forward pass in the first epoch."""
        bounds = list(map(self.pass_cost, bound_shapes(self.plan, self.config, self.world_size)))
        updates = self.plan.updates(0)
        found: list[
            tuple[float, int, Shape]
        ] = []  # cost, -update (prefers the first of equals), shape
        for number in sorted(range(len(bounds)), key=bounds.__getitem__, reverse=True):
            if found and bounds[number] < found[0][0]:
                break
            position = Position(0, number)
            rows = make_rows(updates[number], position, self.plan, self.config)
            shapes = [
                Shape(
                    len(specs),
                    specs[0].frames,
                    specs[0].label_length or max(map(self._tokens, specs)),
                )
                for specs in self._specs(rows, position, position)
            ]
            largest = max(shapes, key=self.pass_cost)
            found = [max([*found, (self.pass_cost(largest), -number, largest)])]
        return found[0][2]

    def _tokens(self, row: Row | SampleSpec) -> int:
        tokens = sum(self.plan.tokens(clip) for clip in row.clips) or 1
        if row.with_timestamps:
            tokens += 2 * len(row.clips)
        if row.with_prompt:
            tokens += 1 + min(self.plan.columns.prompts.item(row.clips[0]), PROMPT_TOKENS)
        return tokens

    def _updates(self) -> Iterator[tuple[list[int], Position, Position]]:
        """Yield updates from the start on, endlessly, with their position and the next one's."""
        first = self.start.update
        for epoch in count(self.start.epoch):
            updates = self.plan.updates(epoch)
            for number in range(first, len(updates)):
                position, ends = Position(epoch, number), number + 1 == len(updates)
                next_position = Position(epoch + 1, 0) if ends else Position(epoch, number + 1)
                if position not in self.skipped:
                    yield updates[number], position, next_position
            first = 0

    def _specs(
        self, rows: list[Row], position: Position, next_position: Position
    ) -> Iterator[list[SampleSpec]]:
        shape = self._update_shape(rows)
        passes = self._own_passes(rows) if shape is None else self._equal_passes(rows, shape)
        for number, own_rows in enumerate(passes, 1):
            label_length = self._label_length(own_rows) if shape is None else shape.tokens
            yield [
                SampleSpec(
                    clips=row.clips,
                    position=position,
                    next_position=next_position,
                    is_last=number == len(passes),
                    frames=row.frames,
                    with_timestamps=row.with_timestamps,
                    with_prompt=row.with_prompt,
                    label_length=label_length,
                )
                for row in own_rows
            ]

    def _update_shape(self, rows: Sequence[Row]) -> Shape | None:
        """Return the shape of a full update with these clips; None without a table of shapes."""
        if self.plan.table is None:
            return None
        clips = [clip for row in rows for clip in row.clips]
        return self.plan.table.shape(self.plan.shape_number(clips))

    def _equal_passes(self, rows: Sequence[Row], shape: Shape) -> list[list[Row]]:
        """Cut an update into this process's passes of one shape, filled with rows of silence."""
        frames = rows[0].frames
        most = fitting_rows(frames, shape.tokens, self.config)
        count, size = cut_update(shape.rows, len(rows), most, self.world_size)
        own = list(rows[self.rank :: self.world_size])
        if len(rows) == shape.rows:  # processes with fewer rows have smaller passes
            size = max(1, -(-len(own) // count))
        own += [Row((), frames)] * (count * size - len(own))
        return [own[start : start + size] for start in range(0, len(own), size)]

    def _label_length(self, rows: Sequence[Row]) -> int:
        """Return the padded label length of packed rows with data.fixed_shapes, otherwise 0."""
        return self._padded(max(map(self._tokens, rows))) if self.config.fixed_shapes else 0

    def _padded(self, tokens: int) -> int:
        """Return the length that labels of packed rows are padded to."""
        if not self.config.fixed_shapes:
            return tokens
        return padded_tokens(np.array(tokens), PACKED_LABEL_STEP).item()

    def _own_passes(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Cut an update into this process's passes, as many as every other process has."""
        shares = [self._passes(rows[rank :: self.world_size]) for rank in range(self.world_size)]
        own = shares[self.rank]
        return own + [[Row((), rows[-1].frames)]] * (max(map(len, shares)) - len(own))

    def _passes(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Cut rows into forward passes of one padded length that fit the memory limits."""
        passes: list[list[Row]] = []
        tokens = 0
        for row in rows:
            row_tokens = self._tokens(row)
            tokens = max(tokens, row_tokens)
            size = len(passes[-1]) + 1 if passes else 1
            if size > 1 and passes[-1][-1].frames == row.frames and self._fits(size, row, tokens):
                passes[-1].append(row)
            else:
                passes.append([row])
                tokens = row_tokens
        return passes

    def _fits(self, rows: int, row: Row, tokens: int) -> bool:
        """Return whether a forward pass may have `rows` such rows, padded to `tokens` tokens."""
        seconds = row.frames / FRAMES_PER_SECOND
        if self.config.quadratic_memory_seconds is not None:
            seconds += seconds**2 / self.config.quadratic_memory_seconds
        limit = self.config.max_seconds_per_forward or MAX_SECONDS_PER_FORWARD
        return (
            rows * seconds <= limit
            and rows * self._padded(tokens) <= self.config.max_tokens_per_forward
        )
