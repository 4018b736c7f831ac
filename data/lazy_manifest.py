"""Utterances that are parsed from manifest.jsonl on access, and their columns for planning."""

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
    """The columns of a manifest that planning needs: 20 bytes per utterance."""

    seconds: NDArray[np.float64]
    tokens: NDArray[np.int32]
    prompts: NDArray[np.int32]  # tokens of the prompt
    kind: NDArray[np.int32]  # indices into kinds
    kinds: list[Kind]  # distinct ones, in order of first appearance
    fingerprint: str  # a hash of ids, texts, durations and tokens; not of audio paths

    @classmethod
    def from_utterances(cls, utterances: Iterable[Utterance]) -> "ManifestColumns":
        """Return the columns of utterances; LazyUtterances hold theirs already."""
        if isinstance(utterances, LazyUtterances):
            return utterances.columns
        builder = ManifestColumnsBuilder()
        for u in utterances:
            builder.add(u.to_json())
        return builder.build()

    @property
    def hours(self) -> float:
        """Return the total duration in hours."""
        return sum(self.seconds.tolist()) / 3600

    def corpora(self) -> dict[str, tuple[int, float]]:
        """Return each corpus's number of clips and its seconds, in order of first appearance."""
        names = list(dict.fromkeys(corpus for corpus, _, _ in self.kinds))
        clips = np.bincount(self._corpus_numbers(names), minlength=len(names))
        seconds = np.bincount(self._corpus_numbers(names), self.seconds, minlength=len(names))
        return dict(zip(names, zip(clips.tolist(), seconds.tolist(), strict=True), strict=True))

    def indices_of_corpus(self, name: str) -> NDArray[np.int64]:
        """Return the indices of a corpus's utterances."""
        return np.flatnonzero(self._corpus_numbers([name]) == 0)

    def _corpus_numbers(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return each utterance's corpus as an index into names; -1 if it is not in names."""
        numbers = [names.index(corpus) if corpus in names else -1 for corpus, _, _ in self.kinds]
        return np.array(numbers, dtype=np.int64)[self.kind]


class ManifestColumnsBuilder:
    """Builds ManifestColumns row by row."""

    def __init__(self) -> None:
        """Initialize empty columns."""
        self.id_checksums = array("I")  # for LazyUtterances.indices_of()
        self._seconds = array("d")
        self._tokens = array("i")
        self._prompts = array("i")
        self._kind = array("i")
        self._kinds: dict[Kind, int] = {}
        self._digest = hashlib.sha256()

    def add(self, row: dict[str, Any]) -> None:
        """Append an utterance, as returned by Utterance.to_json()."""
        seconds, tokens = row.get("seconds", 0.0), row.get("tokens", 0)
        kind = (row.get("corpus", ""), row.get("language") or "", row.get("task", "transcribe"))
        self._seconds.append(seconds)
        self._tokens.append(tokens)
        self._prompts.append(row.get("prompt_tokens", 0))
        self._kind.append(self._kinds.setdefault(kind, len(self._kinds)))
        self.id_checksums.append(crc32(row["id"].encode()))
        line = f"{row['id']}\0{row.get('text', '')}\0{seconds}\0{tokens}\0{kind[1]}\0{kind[2]}\n"
        self._digest.update(line.encode())

    def build(self) -> ManifestColumns:
        """Return the columns of all added rows."""
        return ManifestColumns(
            seconds=np.array(self._seconds),
            tokens=np.array(self._tokens),
            prompts=np.array(self._prompts),
            kind=np.array(self._kind),
            kinds=list(self._kinds),
            fingerprint=self._digest.hexdigest()[:16],
        )


class LazyUtterances(Sequence[Utterance]):
    """The utterances of one split of a manifest, each parsed on access.

    The DataLoader's workers share the file's memory-mapped pages. Each of them would copy a list
    bit by bit, since reference counting writes to objects that are only read (pytorch#13246).
    """

    def __init__(
        self,
        path: Path,
        columns: ManifestColumns,
        offsets: NDArray[np.int64],
        id_checksums: NDArray[np.uint32],
    ) -> None:
        """Memory-map a manifest.

        Args:
            path: of the manifest.
            columns: of the split's utterances.
            offsets: byte at which each of their lines begins.
            id_checksums: CRC-32 of each of their ids.
        """
        self.columns = columns
        self._id_checksums = id_checksums
        self._offsets = offsets
        self._path = path
        self._lines = map_file(path)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the map and the columns: a spawned worker maps the file itself."""
        return {"_path": self._path, "_offsets": self._offsets}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the file; workers need no columns."""
        self._path, self._offsets = state["_path"], state["_offsets"]
        self._lines = map_file(self._path)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        """Parse one utterance or a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return parse_row_at(self._lines, self._offsets.item(index))

    def __iter__(self) -> Iterator[Utterance]:
        """Parse all utterances, one by one."""
        return map(self.__getitem__, range(len(self)))

    def indices_of(self, ids: Iterable[str]) -> list[int]:
        """Return the indices of utterances with these ids, parsing those of equal checksum."""
        wanted = set(ids)
        checksums = np.array([crc32(name.encode()) for name in wanted], dtype=np.uint32)
        candidates = np.flatnonzero(np.isin(self._id_checksums, checksums)).tolist()
        return [index for index in candidates if self[index].id in wanted]


def indices_of(utterances: Sequence[Utterance], ids: Iterable[str]) -> list[int]:
    """Return the indices of the utterances with these ids."""
    if isinstance(utterances, LazyUtterances):
        return utterances.indices_of(ids)
    wanted = set(ids)
    return [index for index, u in enumerate(utterances) if u.id in wanted]


def parse_row(row: dict[str, Any]) -> Utterance:
    """Return the utterance of a manifest's row."""
    known = {key: value for key, value in row.items() if key != "split"}
    return Utterance(**{"text": "", **known, "rules": tuple(row.get("rules", ()))})


def parse_row_at(lines: mmap, offset: int) -> Utterance:
    """Return the utterance whose line begins at a byte offset of a manifest."""
    return parse_row(json.loads(lines[offset : lines.find(b"\n", offset)]))


def map_file(path: Path) -> mmap:
    """Memory-map a file for reading."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)
