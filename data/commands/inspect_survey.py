"""Survey: reads all splits of a corpus, and finds what training would leave out."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import track
from tokenizers import Tokenizer

from data.commands.inspect_columns import SPECIAL_TOKENS, ColumnStatistics
from data.commands.leakage import audio_hash
from data.config import DataConfig
from data.corpora import read as read_corpus
from data.corpora.common_voice import contains_held_out_speakers
from data.errors import InputError
from data.labels import MAX_TOKENS
from data.screening.durations import scan
from data.screening.filters import (
    Screened,
    make_drop,
    screen_audio,
    screen_faults,
    screen_leaks,
    screen_training,
)
from data.utterance import Drop, Utterance

CHUNK = 2**16  # clips in memory at a time; the scan's cache is saved after each chunk


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectConfig:
    """Report what a corpus holds and what looks wrong in it."""

    # Folders, manifests or names on the Hugging Face Hub.
    corpus: tyro.conf.Positional[tuple[str, ...]]
    # Splits to inspect. None is those of data.train_split, dev_split and test_split that exist.
    split: tuple[str, ...] = ()
    # Whisper's code of the language, one for all corpora or one for each. None takes what the
    # corpus says.
    language: tuple[str, ...] = ()
    # Model whose tokenizer counts tokens: a folder or a name on the Hub. None counts none.
    model: str | None = None
    # How audio is checked. none takes lengths as they are listed, header reads them, and decode
    # also finds broken audio.
    scan: Literal["none", "header", "decode"] = "decode"
    hashes: bool = False  # Find audio that occurs under several names. This reads every byte.
    seed: int = 0  # Seed of the clips that are drawn for listening.
    out: str | None = None  # Folder for the page and the lists. None is a folder in runs/inspect.
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        """Check for contradictions.

        Raises:
            InputError: hashes is set, but check is none.
        """
        if self.hashes and self.scan == "none":
            raise InputError("hashes reads every clip, but scan is none: set it to header")


class Survey:
    """Statistics of a corpus, which read() collects."""

    def __init__(self, config: InspectConfig, cache: Path) -> None:
        """Initialize empty statistics.

        Args:
            config: what to inspect.
            cache: file that keeps measured durations between runs.
        """
        language = config.language or config.data.language
        check = "header" if config.scan == "none" else config.scan
        self.config = config
        self.data = replace(config.data, corpus=config.corpus, language=language, scan=check)
        held_out = [split for split in (self.data.dev_split, self.data.test_split) if split]
        splits = config.split or (self.data.train_split, *held_out)
        self.splits = list(dict.fromkeys(splits))
        self.columns = ColumnStatistics()
        self.characters: dict[str, Counter[str]] = defaultdict(Counter)  # by language
        self.listed: Counter[str] = Counter()  # rows by split
        self.left_out: Counter[tuple[str, str]] = Counter()  # drops by split and reason
        self.examples: dict[tuple[str, str], Drop] = {}  # the first drop of each
        self.absent: dict[str, str] = {}  # error by missing split, if not requested
        self._cache = cache
        self._tokenizer = None if config.model is None else _load_tokenizer(config.model)
        self._held_out: list[Utterance] = []

    def read(self) -> Iterator[Drop]:
        """Read all splits, and yield drops.

        Raises:
            InputError: a requested split is missing, or a duration is unknown and check is none.
        """
        # dev and test first, to find training clips that are in them
        for split in sorted(self.splits, key=lambda split: not self._is_held_out(split)):
            rows = self._open_split(split)
            seen: set[str] = set()
            while chunk := list(islice(rows, CHUNK)):
                for dropped in self._read_chunk(chunk, split, seen):
                    self.left_out[split, dropped.reason] += 1
                    self.examples.setdefault((split, dropped.reason), dropped)
                    yield dropped
        if not self.listed:
            raise InputError(self.absent[self.data.train_split])

    def read_again(self, clips: Iterable[int]) -> dict[int, Utterance]:
        """Read clips again, by index in the columns; return them with their durations."""
        wanted, clips_by_index = set(clips), {}
        rows, seconds = self.columns.numbers("row"), self.columns.numbers("seconds")
        for split in self.columns.names("split"):
            inside = self.columns.where("split", split)
            places = {int(rows[clip]): clip for clip in wanted if inside[clip]}
            until = max(places, default=-1) + 1
            for number, u in enumerate(islice(read_corpus(self.data, split), until)):
                if number in places:
                    clip = places[number]
                    clips_by_index[clip] = replace(u, seconds=float(seconds[clip]))
        return clips_by_index

    def _open_split(self, split: str) -> Iterator[Utterance]:
        """Return a split's rows; none if it does not exist and was not requested."""
        rows = read_corpus(self.data, split)
        try:
            first = list(islice(rows, 1))
        except InputError as error:
            if self.config.split:
                raise
            self.absent[split] = str(error)
            return iter(())
        self.listed[split] = 0
        return chain(first, rows)

    def _is_held_out(self, split: str) -> bool:
        return split in (self.data.dev_split, self.data.test_split)

    def _read_chunk(self, chunk: Sequence[Utterance], split: str, seen: set[str]) -> list[Drop]:
        numbers: dict[str, int] = {}
        fresh, drops = [], []
        for number, u in enumerate(chunk, self.listed[split]):
            if u.id in seen:
                drops.append(make_drop(u, split, "listed twice"))
                continue
            seen.add(u.id)
            numbers[u.id] = number
            fresh.append(u)
        self.listed[split] += len(chunk)
        fresh, faults = screen_faults(fresh, split)
        usable, broken = self._measure(fresh, split)
        usable = self._with_tokens(usable)
        unfit = self._screen_as_training(usable, split)
        self._add(usable, split, numbers, {dropped.id for dropped in unfit})
        return [*drops, *faults, *broken, *unfit]

    def _measure(self, fresh: list[Utterance], split: str) -> Screened:
        if self.config.scan != "none":
            return screen_audio(fresh, split, scan(fresh, self.data, self._cache, show=True))
        for u in fresh:
            if u.seconds == 0:
                raise InputError(f"{u.audio}: {split} has no duration for it: set check to header")
        return fresh, []

    def _with_tokens(self, usable: list[Utterance]) -> list[Utterance]:
        if self._tokenizer is None or not usable:
            return usable
        texts = [u.text for u in usable]
        ids = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for u, row in zip(usable, ids, strict=True):
            u.tokens = len(row) + SPECIAL_TOKENS
        return usable

    def _screen_as_training(self, usable: list[Utterance], split: str) -> list[Drop]:
        """Return the drops that training would add for clips with usable audio."""
        if self._is_held_out(split):
            self._held_out += usable
            return []
        strict = contains_held_out_speakers(split)  # as in training
        kept, leaks = screen_leaks(usable, split, self._held_out, strict=strict)
        _, unfit = screen_training(kept, split, self.data, MAX_TOKENS)
        return leaks + unfit

    def _add(
        self, usable: list[Utterance], split: str, numbers: dict[str, int], dropped_ids: set[str]
    ) -> None:
        quiet = not (self.config.hashes and sys.stdout.isatty())
        for u in track(usable, "hashing", disable=quiet, transient=True):
            digest = audio_hash(u) if self.config.hashes else None
            self.characters[u.language or ""].update(u.text)
            self.columns.add(
                u,
                split=split,
                row=numbers[u.id],
                kept=u.id not in dropped_ids,
                audio=hash(digest) if digest else 0,
            )


def _load_tokenizer(name: str) -> Tokenizer:
    folder = Path(name)
    try:
        if folder.is_dir():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # tokenizers raises no more specific type
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model {name!r}: its tokenizer cannot be loaded: {reason}") from error
