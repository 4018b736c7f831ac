"""Clips that fail while training: named once, counted over all processes, and not too many."""

from collections.abc import Sequence
from dataclasses import asdict

from accelerate import Accelerator
from accelerate.utils import gather_object

from data.atomic_files import read_jsonl
from data.config import DataConfig
from data.errors import InputError
from data.sampling.epoch_plan import Plan
from data.screening.filters import is_broken, max_broken_clips
from data.utterance import Drop
from data.worker_pool import HANGS, KILLS
from eval.main_process import run_on_main_process
from trainer.metrics.recorder import JsonlLog

LETHAL = (KILLS, HANGS)


def clips_of_run(config: DataConfig, plan: Plan, steps: int) -> int:
    """Return how many clips a run trains on: its corpus, or what its updates take of a stream.

    Args:
        config: says which.
        plan: of the corpus, or of the first window.
        steps: updates in all.
    """
    clips = len(plan.columns.seconds)
    return clips * steps // len(plan.updates(0)) if config.streaming else clips


class DropLog:
    """drops.jsonl while a run goes on: it holds what was left out before, too.

    The main process alone reads and writes it. Every process calls as often.
    """

    def __init__(
        self, log: JsonlLog, config: DataConfig, clips: int, accelerator: Accelerator
    ) -> None:
        """Take the file, which faults are accepted and how many, and how many clips there are."""
        self._log = log
        self._config = config
        self._clips = clips
        self._main = accelerator.is_main_process
        self._named: set[tuple[str, str]] = set()  # split and id
        self._fresh: list[Drop] = []  # failed here, and were not told to the others yet
        self._broken = 0
        self.lethal: list[str] = []  # ids of clips whose decoding killed a worker: never again
        self._know(
            run_on_main_process(accelerator, lambda: [Drop(**row) for row in read_jsonl(log.path)])
        )

    def add(self, drops: Sequence[Drop]) -> None:
        """Take down clips that failed here, unless they have been named before."""
        self._fresh += [drop for drop in drops if (drop.split, drop.id) not in self._named]

    def take(self) -> int:
        """Return how many clips have failed here that were not named before."""
        return len(self._fresh)

    def count(self, fresh: int) -> None:
        """Name and count what has failed on any process.

        Args:
            fresh: what take() returned, added up over all processes.

        Raises:
            InputError: it is more than a run may lose; all processes raise it at the same update.
        """
        if not fresh:
            return
        mine, self._fresh = self._fresh, []
        found = {(drop.split, drop.id): drop for drop in gather_object(mine)}
        new = [drop for key, drop in found.items() if key not in self._named]
        if self._main:
            self._log.append(map(asdict, new))
        self._know(new)
        if self._broken > max_broken_clips(self._clips, self._config):
            raise InputError(
                f"{self._broken} of {self._clips} clips are broken, more than "
                f"data.max_broken_share={self._config.max_broken_share:g} allows: "
                f"{self._log.path} names them; mend them, or raise data.max_broken_share, and go "
                "on with --resume=auto"
            )

    def _know(self, drops: Sequence[Drop]) -> None:
        """Keep what was named."""
        self._named |= {(drop.split, drop.id) for drop in drops}
        self._broken += sum(is_broken(drop, self._config) for drop in drops)
        self.lethal += [drop.id for drop in drops if drop.reason in LETHAL]
