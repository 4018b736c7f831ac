"""Assign clips to train, dev and test, so that no speaker or sentence is in two of them."""

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
from data.screening.filters import make_drop
from data.utterance import Drop, Utterance
from data.writing_systems import plain_text

SPLITS = ("test", "dev", "train")  # in order of precedence for shared sentences
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
        """Check the ranges and combinations of values.

        Raises:
            InputError: a number is out of its range, or held_out does not have two splits.
        """
        if len(self.held_out) not in (0, 2):
            raise InputError(
                f"held_out must be dev and test, in this order, got {list(self.held_out)}: "
                "give two splits, or none to create them"
            )
        if self.held_out and self.shared_sentences:
            raise InputError(
                "shared_sentences is for a divided source: with held_out, train never has "
                "sentences of those splits"
            )
        for key in ("dev", "test"):
            if not getattr(self, key) > 0:
                raise InputError(f"{key} must be greater than 0, got {getattr(self, key)}")
        if self.unit == "share" and not self.dev + self.test < 1:
            raise InputError(
                f"dev and test are {self.dev + self.test:g} of the speakers together: "
                "leave some for train, or use --unit=hours"
            )


def divide(utterances: Iterable[Utterance], config: SplitConfig) -> Parts:
    """Divide clips into test, dev and train; each group stays in one split.

    Raises:
        InputError: a split would be empty.
    """
    utterances = list(utterances)
    hours: dict[str, float] = defaultdict(float)
    for u in utterances:
        hours[_group(u, config)] += u.seconds / 3600
    split_of = _by_share(hours, config) if config.unit == "share" else _by_hours(hours, config)
    parts: Parts = {split: [] for split in SPLITS}
    for u in utterances:
        parts[split_of[_group(u, config)]].append(u)
    for split, part in parts.items():
        if not part:
            raise InputError(
                f"{', '.join(config.corpus)}: divided by {config.by}, none of {len(hours):,} "
                f"groups is in {split}: use another --dev, --test or --seed, --unit=hours, or "
                "--by=sentence"
            )
    return parts


def separate_sentences(parts: Parts, *, held_out: bool) -> tuple[Parts, list[Drop]]:
    """Drop clips whose sentence is in another split: from dev for test, from train for both.

    Args:
        parts: clips by split.
        held_out: keep dev and test unchanged.
    """
    split_of: dict[str, str] = {}
    kept: Parts = {split: [] for split in SPLITS}
    drops = []
    for split in SPLITS:
        for u in parts[split]:
            first = split_of.setdefault(_sentence(u), split)
            if first == split or (held_out and split != "train"):
                kept[split].append(u)
            else:
                drops.append(make_drop(u, split, f"plain sentence of {first}"))
    return kept, drops


def _by_share(hours: Mapping[str, float], config: SplitConfig) -> dict[str, str]:
    def split_at(fraction: float) -> str:
        if fraction < config.test:
            return "test"
        return "dev" if fraction < config.test + config.dev else "train"

    return {group: split_at(_hash_fraction(group, config.seed)) for group in hours}


def _by_hours(hours: Mapping[str, float], config: SplitConfig) -> dict[str, str]:
    """Fill test, then dev, without exceeding them: groups longer than the rest are skipped."""
    split_of = dict.fromkeys(hours, "train")
    for split, free_hours in (("test", config.test), ("dev", config.dev)):
        for group in sorted(hours, key=lambda name: _hash_fraction(name, config.seed)):
            if split_of[group] == "train" and hours[group] <= free_hours:
                split_of[group] = split
                free_hours -= hours[group]
    return split_of


def _group(u: Utterance, config: SplitConfig) -> str:
    """Return a clip's group. Equal names in two corpora count as one speaker."""
    if config.by == "speaker" and u.speaker:
        return f"speaker {u.speaker}"
    if config.by == "speaker" and (u.start or u.end is not None):
        return f"recording {os.path.basename(u.audio)}"  # without the folder
    return f"sentence {_sentence(u)}"


def _sentence(u: Utterance) -> str:
    return plain_text(u.text) or u.text


def _hash_fraction(group: str, seed: int) -> float:
    """Return a group's hash between 0 and 1, independent of the machine and of other groups."""
    digest = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
