"""Utterances that stay in their file, and an outline of them that planning works with."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, overload

from data.utterance import Utterance

Kind = tuple[str, str, str]  # corpus, language, task


class Outline:
    """What a plan knows of utterances, in columns: some 30 bytes each."""

    def __init__(self) -> None:
        """Begin without any."""
        self.seconds = array("d")
        self.tokens = array("i")
        self.prompts = array("i")  # tokens of what was said before
        self.kinds: list[Kind] = []
        self._known: dict[Kind, Kind] = {}  # one tuple for all that are alike
        self._digest = hashlib.sha256()

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> "Outline":
        """Return the outline of utterances; those of a file have theirs already."""
        if isinstance(utterances, LazyUtterances):
            return utterances.outline
        outline = cls()
        for u in utterances:
            outline.add(u.to_json())
        return outline

    def add(self, row: dict[str, Any]) -> None:
        """Append an utterance, given as Utterance.to_json() does."""
        seconds, tokens = row.get("seconds", 0.0), row.get("tokens", 0)
        kind = (row.get("corpus", ""), row.get("language") or "", row.get("task", "transcribe"))
        self.seconds.append(seconds)
        self.tokens.append(tokens)
        self.prompts.append(row.get("prompt_tokens", 0))
        self.kinds.append(self._known.setdefault(kind, kind))
        told = f"{row['id']}\0{row.get('text', '')}\0{seconds}\0{tokens}\0{kind[1]}\0{kind[2]}\n"
        self._digest.update(told.encode())

    @property
    def fingerprint(self) -> str:
        """Return a hash of what is trained on, wherever its audio lies: ids, texts, lengths."""
        return self._digest.hexdigest()[:16]

    @property
    def hours(self) -> float:
        """Return the audio in all."""
        return sum(self.seconds) / 3600


class LazyUtterances(Sequence[Utterance]):
    """The rows of a manifest that are of one split, each parsed when it is asked for.

    A worker shares the file's pages with all others. A list it would copy bit by bit, since
    counting references writes into what is only read (pytorch#13246).
    """

    def __init__(self, path: Path, outline: Outline, offsets: "array[int]") -> None:
        """Take a file whose lines read_row() can read.

        Args:
            path: the file.
            outline: of the rows that are meant.
            offsets: the bytes at which they begin.
        """
        self.outline = outline
        self._offsets = offsets
        self._path = path
        self._lines = _mapped(path)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map: where workers are not forked, each maps the file itself."""
        return {"_path": self._path, "_offsets": self._offsets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file. The outline stays with whoever plans."""
        self._path, self._offsets = state["_path"], state["_offsets"]
        self._lines = _mapped(self._path)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        """Parse a row, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        offset = self._offsets[index]
        line = self._lines[offset : self._lines.find(b"\n", offset)]
        return read_row(json.loads(line))

    def __iter__(self) -> Iterator[Utterance]:
        """Parse row after row."""
        return map(self.__getitem__, range(len(self)))


def read_row(row: dict[str, Any]) -> Utterance:
    """Return the utterance of a row of a manifest."""
    known = {key: value for key, value in row.items() if key != "split"}
    return Utterance(**{"text": "", **known, "rules": tuple(row.get("rules", ()))})


def _mapped(path: Path) -> mmap:
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
