"""One process's forward passes of the plan."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count, islice
from operator import attrgetter
from typing import NamedTuple

from torch.utils.data import Sampler

from data.batch import Position, Shape
from data.config import MAX_SECONDS_PER_FORWARD, DataConfig
from data.labels import PROMPT_TOKENS
from data.log_mel import FRAMES_PER_SECOND
from data.sampling.epoch_plan import Plan
from data.sampling.forward_bounds import bound_shapes
from data.sampling.rows import Row, rows_of


class SampleSpec(NamedTuple):
    """One row of a pass."""

    clips: tuple[int, ...]  # indices into the manifest, said one after another; (): silence
    at: Position  # of this row's update in the plan
    after: Position  # where training goes on after this row's update
    last: bool  # whether this pass is its update's last
    frames: int  # what it is padded to
    timed: bool = False  # whether its labels hold times
    prompted: bool = False  # whether what was said before stands before its labels


@dataclass(eq=False)
class BucketedBatchSampler(Sampler[list[SampleSpec]]):
    """Yields the forward passes of one process, from any position on, epoch after epoch.

    Row i of an update belongs to process i modulo their number. All processes make as many passes
    an update as the one that needs most; the others make up with silence of no weight, since a
    process that skipped a pass would leave the rest waiting in the gradient's all-reduce.
    """

    plan: Plan
    config: DataConfig  # `pad` makes rows of an update, the `pass_` knobs cut them into passes
    _: KW_ONLY
    updates: int  # how many to draw
    start: Position = Position()  # noqa: RUF009 - immutable; reached without decoding
    rank: int = 0  # of this process
    world: int = 1  # number of processes
    # updates that are not drawn and not counted. A position may name one, since `after` is the
    # plan's next: drawing from there begins with the first update that is not among them
    passed_over: Collection[Position] = ()
    # an estimate of a pass's memory, by which the largest is found; its padded audio by default.
    # More rows, frames or tokens never cost less
    pass_cost: Callable[[Shape], float] = attrgetter("seconds")

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        """Yield passes, each a list of draws."""
        for update, at, after in islice(self._updates(), self.updates):
            yield from self._draws(rows_of(update, at, self.plan, self.config), at, after)

    def worst(self) -> Shape:
        """Return the pass that takes the most memory, of all in this process's first epoch."""
        bounds = list(map(self.pass_cost, bound_shapes(self.plan, self.config, self.world)))
        updates = self.plan.updates(0)
        found: list[tuple[float, int, Shape]] = []  # cost, minus the update: the first of equals
        for number in sorted(range(len(bounds)), key=bounds.__getitem__, reverse=True):
            if found and bounds[number] < found[0][0]:
                break
            at = Position(0, number)
            passes = self._draws(rows_of(updates[number], at, self.plan, self.config), at, at)
            shapes = [
                Shape(len(rows), rows[0].frames, max(map(self._tokens, rows))) for rows in passes
            ]
            worst = max(shapes, key=self.pass_cost)
            found = [max([*found, (self.pass_cost(worst), -number, worst)])]
        return found[0][2]

    def _tokens(self, row: Row | SampleSpec) -> int:
        tokens = sum(self.plan.tokens(clip) for clip in row.clips) or 1
        if row.timed:
            tokens += 2 * len(row.clips)
        if row.prompted:
            tokens += 1 + min(self.plan.outline.prompts.item(row.clips[0]), PROMPT_TOKENS)
        return tokens

    def _updates(self) -> Iterator[tuple[list[int], Position, Position]]:
        """Yield updates from the start on, for ever, each with its position and the next one's."""
        first = self.start.update
        for epoch in count(self.start.epoch):
            updates = self.plan.updates(epoch)
            for number in range(first, len(updates)):
                at, ends = Position(epoch, number), number + 1 == len(updates)
                after = Position(epoch + 1, 0) if ends else Position(epoch, number + 1)
                if at not in self.passed_over:
                    yield updates[number], at, after
            first = 0

    def _draws(self, rows: list[Row], at: Position, after: Position) -> Iterator[list[SampleSpec]]:
        shares = [self._passes(rows[rank :: self.world]) for rank in range(self.world)]
        most = max(map(len, shares))
        mine = shares[self.rank]
        mine += [[Row((), rows[-1].frames)]] * (most - len(mine))
        for number, each in enumerate(mine, 1):
            last = number == most
            yield [
                SampleSpec(row.clips, at, after, last, row.frames, row.timed, row.prompted)
                for row in each
            ]

    def _passes(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Cut rows where what they are padded to changes, and where memory ends."""
        passes: list[list[Row]] = []
        tokens = 0
        for row in rows:
            held = self._tokens(row)
            tokens = max(tokens, held)
            size = len(passes[-1]) + 1 if passes else 1
            if size > 1 and passes[-1][-1].frames == row.frames and self._fits(size, row, tokens):
                passes[-1].append(row)
            else:
                passes.append([row])
                tokens = held
        return passes

    def _fits(self, rows: int, row: Row, tokens: int) -> bool:
        """Tell whether a pass may hold so many rows like this one, padded to so many tokens."""
        seconds = row.frames / FRAMES_PER_SECOND
        if self.config.quadratic_memory_seconds is not None:
            seconds += seconds**2 / self.config.quadratic_memory_seconds
        most = self.config.max_seconds_per_forward or MAX_SECONDS_PER_FORWARD
        return rows * seconds <= most and rows * tokens <= self.config.max_tokens_per_forward
