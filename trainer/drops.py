"""Clips that fail while training: named once, counted over all processes, and not too many."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data.config import DataConfig
from data.errors import InputError
from data.files import append_jsonl, read_jsonl
from data.plan import Plan
from data.screen import accepted_broken, is_broken
from data.utterance import Drop
from data.workers import HANGS, KILLS

LETHAL = (KILLS, HANGS)


def clips_heard(config: DataConfig, plan: Plan, steps: int) -> int:
    """Return how many clips a run trains on: its corpus, or what its updates take of a stream.

    Args:
        config: says which.
        plan: of the corpus, or of the first window.
        steps: updates in all.
    """
    clips = len(plan.outline.seconds)
    return clips * steps // len(plan.updates(0)) if config.streaming else clips


class DropLog:
    """drops.jsonl while a run goes on: it holds what was left out before, too."""

    def __init__(self, path: Path, config: DataConfig, clips: int) -> None:
        """Take the file, which faults are accepted and how many, and how many clips there are."""
        self._path = path
        self._config = config
        self._clips = clips
        self._broken = sum(is_broken(Drop(**row), config) for row in read_jsonl(path))
        self._fresh = 0  # named by this process, since take()

    @property
    def lethal(self) -> list[str]:
        """Return the ids of clips whose decoding killed a worker: never again."""
        return [row["id"] for row in read_jsonl(self._path) if row["reason"] in LETHAL]

    def add(self, drops: Sequence[Drop]) -> None:
        """Name clips that failed, unless this or another process has named them before."""
        if not drops:
            return
        named = {(row["split"], row["id"]) for row in read_jsonl(self._path)}
        fresh = [drop for drop in drops if (drop.split, drop.id) not in named]
        append_jsonl(self._path, map(asdict, fresh))
        self._fresh += sum(is_broken(drop, self._config) for drop in fresh)

    def take(self) -> int:
        """Return how many broken ones were named here since the last call."""
        fresh, self._fresh = self._fresh, 0
        return fresh

    def count(self, fresh: int) -> None:
        """Count what all processes have named.

        Raises:
            InputError: it is more than a run may lose; all processes raise it at the same update.
        """
        self._broken += fresh
        if fresh and self._broken > accepted_broken(self._clips, self._config):
            raise InputError(
                f"{self._broken} of {self._clips} clips are broken, more than data.max_broken="
                f"{self._config.max_broken:g} allows: {self._path} names them; mend them, or raise "
                "data.max_broken, and go on with --resume=auto"
            )
