"""The passes of training on a stream, window after window."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing

from data.batch import Batch, Position, Shape
from data.dataloader import Batches, TrainLoader
from data.sampling.epoch_plan import Plan
from data.streaming.windows import Windows
from data.utterance import Drop, Utterance


class StreamTrainLoader:
    """What loader.Passes is for a corpus, for a stream: in a position, the epoch is a window.

    Each window has a plan of its own, drawn as that of an epoch of its number.
    """

    def __init__(
        self,
        windows: Windows,
        plan: Callable[[Sequence[Utterance]], Plan],
        passes: Callable[[Sequence[Utterance], Plan], TrainLoader],
        first: TrainLoader,
        *,
        rank: int,
        world: int,
    ) -> None:
        """Take what makes the passes of a window.

        Args:
            windows: of the stream.
            plan: makes the plan of a window.
            passes: makes its passes.
            first: those of the first window.
            rank: of this process: each names some of what windows leave out.
            world: number of processes.
        """
        self._windows = windows
        self._plan = plan
        self._passes = passes
        self._first = first
        self._mine = slice(rank, None, world)
        self._seconds: float | None = None  # what a pass holds at most, once one did not fit
        self._running: Batches | None = None

    def start(
        self, at: Position, updates: int, passed_over: Collection[Position] = ()
    ) -> Iterator[Batch]:
        """Yield the passes of so many updates from a position on; what was started before ends.

        Args:
            at: where to begin.
            updates: how many to draw.
            passed_over: updates that are not drawn, and not counted.

        Raises:
            InputError: a window cannot be read.
        """
        self._end()
        self._running = self._batches(at, updates, passed_over)
        return self._running

    @property
    def worst(self) -> Shape:
        """Return the pass of the first window that takes the most memory."""
        return self._first.worst

    def shrink(self, seconds: float) -> None:
        """Cut later passes so that none holds more padded audio than this; the plans stay."""
        self._seconds = seconds
        self._first.shrink(seconds)

    def close(self) -> None:
        """Send the workers home, and leave nothing of the stream on disk."""
        self._end()
        self._windows.close()

    def _end(self) -> None:
        if self._running is not None:
            self._running.close()

    def _batches(self, at: Position, updates: int, passed_over: Collection[Position]) -> Batches:
        unnamed: list[Drop] = []
        while updates:
            window, begin, at = self._windows.take(at.epoch), at, Position(at.epoch + 1)
            unnamed += window.drops[self._mine]
            if not window.utterances:
                continue
            plan = self._plan(window.utterances)
            places = (Position(begin.epoch, n) for n in range(len(plan.updates(begin.epoch))))
            due = [each for each in places if each >= begin and each not in passed_over][:updates]
            updates -= len(due)
            if updates:
                self._windows.prepare(at.epoch)
            with closing(self._passes(window.utterances, plan)) as passes:
                if self._seconds is not None:
                    passes.shrink(self._seconds)
                for batch in passes.start(begin, len(due), passed_over):
                    batch.drops, unnamed = [*unnamed, *batch.drops], []
                    yield batch
