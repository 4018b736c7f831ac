"""Utterances that stay in their file, and an outline of them that planning works with."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, overload
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from data.utterance import Utterance

Kind = tuple[str, str, str]  # corpus, language, task


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ManifestColumns:
    """What a plan knows of utterances, in columns: 20 bytes each."""

    seconds: NDArray[np.float64]
    tokens: NDArray[np.int32]
    prompts: NDArray[np.int32]  # tokens of what was said before
    kind: NDArray[np.int32]  # places in kinds
    kinds: list[Kind]  # those that there are, in the order in which they come up
    fingerprint: str  # a hash of what is trained on, wherever its audio lies: ids, texts, lengths

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> "ManifestColumns":
        """Return the outline of utterances; those of a file have theirs already."""
        if isinstance(utterances, LazyUtterances):
            return utterances.outline
        columns = ManifestColumnsBuilder()
        for u in utterances:
            columns.add(u.to_json())
        return columns.outline()

    @property
    def hours(self) -> float:
        """Return the audio in all."""
        return sum(self.seconds.tolist()) / 3600

    def corpora(self) -> dict[str, tuple[int, float]]:
        """Return the clips and the seconds of each corpus, in the order in which they come up."""
        names = list(dict.fromkeys(corpus for corpus, _, _ in self.kinds))
        clips = np.bincount(self._corpus(names), minlength=len(names))
        seconds = np.bincount(self._corpus(names), self.seconds, minlength=len(names))
        return dict(zip(names, zip(clips.tolist(), seconds.tolist(), strict=True), strict=True))

    def of_corpus(self, name: str) -> NDArray[np.int64]:
        """Return the places of a corpus's utterances."""
        return np.flatnonzero(self._corpus([name]) == 0)

    def _corpus(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the place in `names` of each utterance's corpus; -1 where it is not there."""
        places = [names.index(corpus) if corpus in names else -1 for corpus, _, _ in self.kinds]
        return np.array(places, dtype=np.int64)[self.kind]


class ManifestColumnsBuilder:
    """Collects an outline row by row."""

    def __init__(self) -> None:
        """Begin without any."""
        self.id_sums = array("I")  # by which LazyUtterances.find() finds a row
        self._seconds = array("d")
        self._tokens = array("i")
        self._prompts = array("i")
        self._kind = array("i")
        self._kinds: dict[Kind, int] = {}
        self._digest = hashlib.sha256()

    def add(self, row: dict[str, Any]) -> None:
        """Append an utterance, given as Utterance.to_json() does."""
        seconds, tokens = row.get("seconds", 0.0), row.get("tokens", 0)
        kind = (row.get("corpus", ""), row.get("language") or "", row.get("task", "transcribe"))
        self._seconds.append(seconds)
        self._tokens.append(tokens)
        self._prompts.append(row.get("prompt_tokens", 0))
        self._kind.append(self._kinds.setdefault(kind, len(self._kinds)))
        self.id_sums.append(crc32(row["id"].encode()))
        told = f"{row['id']}\0{row.get('text', '')}\0{seconds}\0{tokens}\0{kind[1]}\0{kind[2]}\n"
        self._digest.update(told.encode())

    def outline(self) -> ManifestColumns:
        """Return what was added."""
        return ManifestColumns(
            seconds=np.array(self._seconds),
            tokens=np.array(self._tokens),
            prompts=np.array(self._prompts),
            kind=np.array(self._kind),
            kinds=list(self._kinds),
            fingerprint=self._digest.hexdigest()[:16],
        )


class LazyUtterances(Sequence[Utterance]):
    """The rows of a manifest that are of one split, each parsed when it is asked for.

    A worker shares the file's pages with all others. A list it would copy bit by bit, since
    counting references writes into what is only read (pytorch#13246).
    """

    def __init__(
        self,
        path: Path,
        outline: ManifestColumns,
        offsets: NDArray[np.int64],
        id_sums: NDArray[np.uint32],
    ) -> None:
        """Take a file whose lines read_row() can read.

        Args:
            path: the file.
            outline: of the rows that are meant.
            offsets: the bytes at which they begin.
            id_sums: CRC-32 of their ids.
        """
        self.outline = outline
        self._id_sums = id_sums
        self._offsets = offsets
        self._path = path
        self._lines = mapped(path)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map: where workers are not forked, each maps the file itself."""
        return {"_path": self._path, "_offsets": self._offsets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file. The outline stays with whoever plans."""
        self._path, self._offsets = state["_path"], state["_offsets"]
        self._lines = mapped(self._path)

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
        return read_row_at(self._lines, self._offsets.item(index))

    def __iter__(self) -> Iterator[Utterance]:
        """Parse row after row."""
        return map(self.__getitem__, range(len(self)))

    def find(self, ids: Iterable[str]) -> list[int]:
        """Return the places of rows with these ids; others are hardly ever parsed."""
        wanted = set(ids)
        sums = np.array([crc32(name.encode()) for name in wanted], dtype=np.uint32)
        alike = np.flatnonzero(np.isin(self._id_sums, sums)).tolist()
        return [index for index in alike if self[index].id in wanted]


def find(utterances: Sequence[Utterance], ids: Iterable[str]) -> list[int]:
    """Return the places of the utterances with these ids."""
    if isinstance(utterances, LazyUtterances):
        return utterances.find(ids)
    wanted = set(ids)
    return [index for index, u in enumerate(utterances) if u.id in wanted]


def read_row(row: dict[str, Any]) -> Utterance:
    """Return the utterance of a row of a manifest."""
    known = {key: value for key, value in row.items() if key != "split"}
    return Utterance(**{"text": "", **known, "rules": tuple(row.get("rules", ()))})


def read_row_at(lines: mmap, offset: int) -> Utterance:
    """Return the utterance whose row begins at a byte of a manifest."""
    return read_row(json.loads(lines[offset : lines.find(b"\n", offset)]))


def mapped(path: Path) -> mmap:
    """Return a file as memory that is read from the disk where it is looked at."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
