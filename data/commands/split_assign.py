"""Who goes into train, dev and test: no speaker and no sentence into two of them."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import tyro

from data.config import DataConfig
from data.errors import InputError
from data.screening.filters import drop
from data.utterance import Drop, Utterance
from data.writing_systems import plain

SPLITS = ("test", "dev", "train")  # a sentence of several stays in the first of these
Parts = dict[str, list[Utterance]]  # by split


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Make train, dev and test that share no speaker and no sentence."""

    # Folders, manifests or names on the Hugging Face Hub.
    corpus: tyro.conf.Positional[tuple[str, ...]]
    source: str = "train"  # Split that is divided, or that train is taken from. + joins several.
    # Splits that stay dev and test, as in --source validated --held_out dev test. train is then the
    # source without their clips, sentences and speakers. None divides the source.
    held_out: tuple[str, ...] = ()
    # What stays together when the source is divided. Clips without a speaker stay with those of the
    # same recording if they are slices of one, and of the same sentence otherwise.
    by: Literal["speaker", "sentence"] = "speaker"
    # Unit of dev and test. With share each speaker is placed by a hash, so that a new clip moves no
    # other speaker. With hours speakers are added in the order of that hash while they fit, and the
    # last one may move.
    unit: Literal["share", "hours"] = "share"
    dev: float = 0.05  # Size of dev, as a share or in hours.
    test: float = 0.05  # Size of test, as a share or in hours.
    seed: int = 0  # Seed of the division.
    shared_sentences: bool = False  # Keep sentences that occur in several of the new splits.
    out: str | None = None  # Folder for the manifests. None is a folder in runs/splits.
    overwrite: bool = False  # Replace manifests that exist.
    # check=decode leaves out broken audio here; training does so anyway
    data: DataConfig = field(default_factory=partial(DataConfig, scan="header"))

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range, or there are not two splits held out.
        """
        if len(self.held_out) not in (0, 2):
            raise InputError(
                f"held_out names dev and test, in this order, got {list(self.held_out)}: "
                "give two splits, or none to make them"
            )
        if self.held_out and self.shared_sentences:
            raise InputError(
                "shared_sentences is for a source that is divided: train never holds a sentence of "
                "the splits that held_out names"
            )
        for key in ("dev", "test"):
            if not getattr(self, key) > 0:
                raise InputError(f"{key} must be greater than 0, got {getattr(self, key)}")
        if self.unit == "share" and not self.dev + self.test < 1:
            raise InputError(
                f"dev and test are {self.dev + self.test:g} of the speakers together: "
                "leave some to train, or say --unit=hours"
            )


def divide(utterances: Iterable[Utterance], config: SplitConfig) -> Parts:
    """Divide clips into test, dev and train; what shares a group stays together.

    Raises:
        InputError: a split would be empty.
    """
    utterances = list(utterances)
    hours: dict[str, float] = defaultdict(float)
    for u in utterances:
        hours[_group(u, config)] += u.seconds / 3600
    homes = _by_share(hours, config) if config.unit == "share" else _by_hours(hours, config)
    parts: Parts = {split: [] for split in SPLITS}
    for u in utterances:
        parts[homes[_group(u, config)]].append(u)
    for split, part in parts.items():
        if not part:
            raise InputError(
                f"{', '.join(config.corpus)}: divided by {config.by}, nothing of {len(hours):,} "
                f"falls into {split}: take another --dev, --test or --seed, --unit=hours, or "
                "--by=sentence"
            )
    return parts


def part_sentences(parts: Parts, *, held_out: bool) -> tuple[Parts, list[Drop]]:
    """Drop clips whose sentence another split holds: dev gives way to test, and train to both.

    Args:
        parts: clips by split.
        held_out: leave dev and test as they are.
    """
    homes: dict[str, str] = {}
    kept: Parts = {split: [] for split in SPLITS}
    drops = []
    for split in SPLITS:
        for u in parts[split]:
            home = homes.setdefault(_sentence(u), split)
            if home == split or (held_out and split != "train"):
                kept[split].append(u)
            else:
                drops.append(drop(u, split, f"plain sentence of {home}"))
    return kept, drops


def _by_share(hours: Mapping[str, float], config: SplitConfig) -> dict[str, str]:
    def home(place: float) -> str:
        if place < config.test:
            return "test"
        return "dev" if place < config.test + config.dev else "train"

    return {group: home(_place(group, config.seed)) for group in hours}


def _by_hours(hours: Mapping[str, float], config: SplitConfig) -> dict[str, str]:
    """Fill test, then dev, and never over: who speaks for longer than is left is passed over."""
    homes = dict.fromkeys(hours, "train")
    for split, room in (("test", config.test), ("dev", config.dev)):
        for group in sorted(hours, key=lambda each: _place(each, config.seed)):
            if homes[group] == "train" and hours[group] <= room:
                homes[group] = split
                room -= hours[group]
    return homes


def _group(u: Utterance, config: SplitConfig) -> str:
    """Return what a clip stays with; one name in two corpora is taken for one speaker."""
    if config.by == "speaker" and u.speaker:
        return f"speaker {u.speaker}"
    if config.by == "speaker" and (u.start or u.end is not None):
        return f"recording {os.path.basename(u.audio)}"  # on any machine
    return f"sentence {_sentence(u)}"


def _sentence(u: Utterance) -> str:
    return plain(u.text) or u.text


def _place(group: str, seed: int) -> float:
    """Return where a group lies between 0 and 1, on any machine and beside any others."""
    digest = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
