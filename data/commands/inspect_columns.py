"""ColumnStatistics: what `inspect` keeps of each clip in columns, some 60 bytes per clip."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.utterance import Utterance
from data.writing_systems import is_damaged, plain_text, script_of

SPECIAL_TOKENS = 5  # of a label: start, language, task, notimestamps, end
NUMBERS = {
    "row": "i",  # index in its split
    "kept": "b",  # whether training or evaluation would use it
    "seconds": "d",
    "letters": "i",
    "tokens": "i",  # without special tokens; 0 without a tokenizer
    "damaged": "b",
    "text": "q",  # hashes
    "plain": "q",
    "audio": "q",  # 0 if not hashed
}
NAMES = ("split", "language", "script", "speaker")


class ColumnStatistics:
    """Columns of the clips with usable audio, in reading order."""

    def __init__(self) -> None:
        """Initialize empty columns."""
        self._numbers: dict[str, array[Any]] = {name: array(kind) for name, kind in NUMBERS.items()}
        self._codes = {name: array("i") for name in NAMES}
        self._known: dict[str, dict[str, int]] = {name: {} for name in NAMES}

    def add(self, u: Utterance, *, split: str, row: int, kept: bool, audio: int) -> None:
        """Append a clip.

        Args:
            u: the clip, with its duration.
            split: its split.
            row: its index in the split.
            kept: whether training or evaluation would use it.
            audio: a hash of its audio.
        """
        normalized = plain_text(u.text)
        tokens = max(0, u.tokens - SPECIAL_TOKENS)
        numbers = (row, kept, u.seconds, len(normalized), tokens, is_damaged(u.text))
        hashes = (hash(u.text), hash(normalized), audio)
        for column, number in zip(self._numbers.values(), (*numbers, *hashes), strict=True):
            column.append(number)
        names = (split, u.language or "", script_of(u.text, u.language), u.speaker or "")
        for key, name in zip(NAMES, names, strict=True):
            known = self._known[key]
            self._codes[key].append(known.setdefault(name, len(known)))

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._numbers["row"])

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of numbers. Shape: (clips,)."""
        return np.asarray(self._numbers[name])

    def names(self, name: str) -> list[str]:
        """Return a column's distinct names, in order of first appearance."""
        return list(self._known[name])

    def where(self, name: str, value: str) -> NDArray[np.bool_]:
        """Return a mask of the clips with a name. Shape: (clips,)."""
        return np.asarray(self._codes[name]) == self._known[name].get(value, -1)

    def count(self, name: str, among: NDArray[np.bool_]) -> dict[str, int]:
        """Return the number of clips by name, most frequent first, without empty names."""
        counts = np.bincount(np.asarray(self._codes[name])[among], minlength=len(self._known[name]))
        pairs = zip(self._known[name], counts.tolist(), strict=True)
        return dict(sorted(((n, c) for n, c in pairs if n and c), key=lambda pair: -pair[1]))
