"""manifest.index.safetensors: where a manifest's rows begin, and the outline of what is trained on.

To parse two million rows takes ten seconds, and eight processes of a machine would do it at the
same time. The index is written once, beside the manifest, and mapped by all of them: they share
its pages. It belongs to a manifest of one size and time of change; where there is none for it, as
in runs from before it, it is made anew.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.atomic_files import write_bytes
from data.lazy_manifest import LazyUtterances, ManifestColumns, ManifestColumnsBuilder

VERSION = "2"  # of what is in the file
COLUMNS = ("seconds", "tokens", "prompts", "kind")  # of an outline


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Index:
    """What finds a manifest's rows."""

    outline: ManifestColumns  # of what is trained on
    id_sums: NDArray[np.uint32]  # the same: CRC-32 of ids
    offsets: Mapping[str, NDArray[np.int64]]  # of each split: the bytes at which its rows begin

    def train(self, path: Path) -> LazyUtterances:
        """Return what is trained on, of a manifest."""
        return LazyUtterances(path, self.outline, self.offsets["train"], self.id_sums)


class IndexBuilder:
    """Collects an index, row by row."""

    def __init__(self) -> None:
        """Begin at a manifest's first byte."""
        self._offsets = {split: array("q") for split in ("train", "dev", "test")}
        self._columns = ManifestColumnsBuilder()
        self._at = 0

    def add(self, row: dict[str, Any], split: str, length: int) -> None:
        """Append a row, whose line has so many bytes."""
        self._offsets[split].append(self._at)
        if split == "train":
            self._columns.add(row)
        self._at += length

    def index(self) -> Index:
        """Return what was added."""
        return Index(
            outline=self._columns.outline(),
            id_sums=np.array(self._columns.id_sums, dtype=np.uint32),
            offsets={split: np.array(found) for split, found in self._offsets.items()},
        )


def build_index(manifest: Path) -> Index:
    """Make the index of a manifest from all of its rows."""
    builder = IndexBuilder()
    from_json = json.JSONDecoder().raw_decode  # json.loads looks for blanks on both sides
    with manifest.open("rb") as file:
        for line in file:
            row = from_json(line.decode())[0]
            builder.add(row, row["split"], len(line))
    return builder.index()


def write_index(manifest: Path, index: Index) -> None:
    """Write the index of a manifest that is complete."""
    outline = index.outline
    columns = {name: getattr(outline, name) for name in COLUMNS}
    columns |= {f"offsets.{split}": found for split, found in index.offsets.items()}
    columns |= {"id_sums": index.id_sums}
    told = {"kinds": json.dumps(outline.kinds), "fingerprint": outline.fingerprint}
    told |= _of(manifest) | {"manifest": _digest_of(manifest), "columns": _digest(columns)}
    write_bytes(index_path(manifest), (save(columns, metadata=told),))


def index_is_sound(manifest: Path) -> bool:
    """Tell whether there is an index, and it and the manifest are, byte for byte, as written.

    This reads both whole: about a second a gigabyte.
    """
    try:
        with safe_open(index_path(manifest), framework="pt") as file:
            told = file.metadata() or {}
            columns = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return False
    same = told.items() >= _of(manifest).items() and told.get("columns") == _digest(columns)
    return same and told.get("manifest") == _digest_of(manifest)


def _digest(columns: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name in sorted(columns):
        found.update(f"{name} {columns[name].dtype} {len(columns[name])}\n".encode())
        found.update(np.ascontiguousarray(columns[name]).data)
    return found.hexdigest()


def _digest_of(manifest: Path) -> str:
    with manifest.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_index(manifest: Path) -> Index | None:
    """Map the index of a manifest; None where there is none of this one."""
    path = index_path(manifest)
    try:
        with safe_open(path, framework="pt") as file:  # as numpy it would be read, not mapped
            told = file.metadata() or {}
            if not told.items() >= _of(manifest).items():
                return None
            columns = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None
    return Index(
        outline=ManifestColumns(
            **{name: columns[name] for name in COLUMNS},
            kinds=[tuple(kind) for kind in json.loads(told["kinds"])],
            fingerprint=told["fingerprint"],
        ),
        id_sums=columns["id_sums"],
        offsets=dict(_splits(columns)),
    )


def index_path(manifest: Path) -> Path:
    """Return where the index of a manifest is."""
    return manifest.with_suffix(".index.safetensors")


def _of(manifest: Path) -> dict[str, str]:
    """Return what a manifest's index is known by."""
    found = manifest.stat()
    return {"version": VERSION, "bytes": str(found.st_size), "changed": str(found.st_mtime_ns)}


def _splits(columns: dict[str, Any]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for name, column in columns.items():
        prefix, _, split = name.partition(".")
        if prefix == "offsets":
            yield split, column
