"""drops.jsonl during training: clips that cannot be decoded, and the limit of their number."""

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
from data.worker_crashes import HANGS, KILLS
from eval.main_process import run_on_main_process
from trainer.metrics.recorder import JsonlLog

FATAL = (KILLS, HANGS)  # reasons after which a clip is never decoded again


def num_training_clips(config: DataConfig, plan: Plan, steps: int) -> int:
    """Return the number of clips of the corpus, or for a stream those of all updates.

    Args:
        config: with streaming or without.
        plan: of the corpus, or of the first window of the stream.
        steps: number of updates.
    """
    clips = len(plan.columns.seconds)
    return clips * steps // len(plan.updates(0)) if config.streaming else clips


class DropLog:
    """Adds clips that fail in training to drops.jsonl, which screening began.

    Only the main process reads and writes the file. All processes must make the same calls.
    """

    def __init__(
        self, log: JsonlLog, config: DataConfig, clips: int, accelerator: Accelerator
    ) -> None:
        """Read the file.

        Args:
            log: drops.jsonl.
            config: the allowed share of broken clips.
            clips: number of training clips.
            accelerator: gathers the drops of all processes.
        """
        self._log = log
        self._config = config
        self._clips = clips
        self._main = accelerator.is_main_process
        self._logged: set[tuple[str, str]] = set()  # split and id
        self._unlogged: list[Drop] = []  # of this process, not known to the others yet
        self._broken = 0
        self.fatal: list[str] = []  # clips that killed a worker: they are not decoded again
        self._register(
            run_on_main_process(accelerator, lambda: [Drop(**row) for row in read_jsonl(log.path)])
        )

    def add(self, drops: Sequence[Drop]) -> None:
        """Store failed clips of this process that are not in the file."""
        self._unlogged += [drop for drop in drops if (drop.split, drop.id) not in self._logged]

    def num_unlogged(self) -> int:
        """Return the number of failed clips of this process that are not in the file."""
        return len(self._unlogged)

    def write(self, unlogged: int) -> None:
        """Write the failed clips of all processes, and check their number.

        Args:
            unlogged: num_unlogged(), summed over all processes.

        Raises:
            InputError: too many clips are broken; all processes raise it at the same update.
        """
        if not unlogged:
            return
        own, self._unlogged = self._unlogged, []
        drops = {(drop.split, drop.id): drop for drop in gather_object(own)}
        new = [drop for key, drop in drops.items() if key not in self._logged]
        if self._main:
            self._log.append(map(asdict, new))
        self._register(new)
        if self._broken > max_broken_clips(self._clips, self._config):
            raise InputError(
                f"{self._broken} of {self._clips} clips are broken, more than "
                f"data.max_broken_share={self._config.max_broken_share:g} allows: "
                f"{self._log.path} lists them; repair them, or raise data.max_broken_share, and "
                "resume with --resume=auto"
            )

    def _register(self, drops: Sequence[Drop]) -> None:
        self._logged |= {(drop.split, drop.id) for drop in drops}
        self._broken += sum(is_broken(drop, self._config) for drop in drops)
        self.fatal += [drop.id for drop in drops if drop.reason in FATAL]
