"""StreamTrainLoader: yields the training batches of a stream, window after window."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing

from data.batch import Batch, Position, Shape
from data.dataloader import Batches, TrainLoader
from data.sampling.epoch_plan import Plan
from data.streaming.prefetch_windows import Windows
from data.utterance import Drop, Utterance


class StreamTrainLoader:
    """The TrainLoader of a stream. In a Position, `epoch` is the number of the window.

    Each window has its own plan, drawn as that of the epoch with its number.
    """

    def __init__(
        self,
        windows: Windows,
        plan: Callable[[Sequence[Utterance]], Plan],
        loader: Callable[[Sequence[Utterance], Plan], TrainLoader],
        first: TrainLoader,
        *,
        rank: int,
        world_size: int,
    ) -> None:
        """Store the windows, and how to make the loader of a window.

        Args:
            windows: of the stream.
            plan: makes the plan of a window's utterances.
            loader: makes their TrainLoader.
            first: the TrainLoader of the first window.
            rank: of this process. Each process reports a share of a window's drops.
            world_size: number of processes.
        """
        self._windows = windows
        self._make_plan = plan
        self._make_loader = loader
        self._first = first
        self._own_drops = slice(rank, None, world_size)
        self._seconds: float | None = None  # limit of a forward pass's padded audio, after shrink()
        self._running: Batches | None = None

    def start(
        self, position: Position, updates: int, skipped: Collection[Position] = ()
    ) -> Iterator[Batch]:
        """Yield the batches of some updates from a position on; end an earlier iteration.

        Args:
            position: of the first update.
            updates: number of updates.
            skipped: updates that are neither drawn nor counted.

        Raises:
            InputError: a window cannot be read.
        """
        self._end()
        self._running = self._batches(position, updates, skipped)
        return self._running

    @property
    def largest(self) -> Shape:
        """Return the shape of the first window's forward pass that takes the most memory."""
        return self._first.largest

    def shrink(self, seconds: float) -> None:
        """Limit the padded audio of later forward passes, in seconds; plans do not change."""
        self._seconds = seconds
        self._first.shrink(seconds)

    def close(self) -> None:
        """Stop the workers, and remove the stream's files."""
        self._end()
        self._windows.close()

    def _end(self) -> None:
        if self._running is not None:
            self._running.close()

    def _batches(self, position: Position, updates: int, skipped: Collection[Position]) -> Batches:
        unreported: list[Drop] = []
        while updates:
            begin, position = position, Position(position.epoch + 1)
            window = self._windows.load(begin.epoch)
            unreported += window.drops[self._own_drops]
            if not window.utterances:
                continue
            plan = self._make_plan(window.utterances)
            positions = (Position(begin.epoch, n) for n in range(len(plan.updates(begin.epoch))))
            remaining = [p for p in positions if p >= begin and p not in skipped][:updates]
            updates -= len(remaining)
            if updates:
                self._windows.prefetch(position.epoch)
            with closing(self._make_loader(window.utterances, plan)) as loader:
                if self._seconds is not None:
                    loader.shrink(self._seconds)
                for batch in loader.start(begin, len(remaining), skipped):
                    batch.drops, unreported = [*unreported, *batch.drops], []
                    yield batch
