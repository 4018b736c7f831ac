"""manifest.index.safetensors: byte offsets of a manifest's rows, and columns of its train split.

Parsing two million rows takes ten seconds, and eight processes of a machine would do it at the same
time. The index is written once, next to the manifest, and memory-mapped by all processes, which
share its pages. It is valid for a manifest of one size and modification time. Without a valid index
a manifest is parsed, as in runs from before the index existed.
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

VERSION = "2"  # of the index's format
COLUMNS = ("seconds", "tokens", "prompts", "kind")  # fields of ManifestColumns


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Index:
    """The index of a manifest."""

    columns: ManifestColumns  # of the training split
    id_checksums: NDArray[np.uint32]  # CRC-32 of the training split's ids
    offsets: Mapping[str, NDArray[np.int64]]  # by split: byte at which each row begins

    def train(self, path: Path) -> LazyUtterances:
        """Return the training split of a manifest."""
        return LazyUtterances(path, self.columns, self.offsets["train"], self.id_checksums)


class IndexBuilder:
    """Builds an index row by row."""

    def __init__(self) -> None:
        """Initialize an empty index."""
        self._offsets = {split: array("q") for split in ("train", "dev", "test")}
        self._columns = ManifestColumnsBuilder()
        self._offset = 0

    def add(self, row: dict[str, Any], split: str, length: int) -> None:
        """Append a row whose line is `length` bytes long."""
        self._offsets[split].append(self._offset)
        if split == "train":
            self._columns.add(row)
        self._offset += length

    def index(self) -> Index:
        """Return the index of all added rows."""
        return Index(
            columns=self._columns.build(),
            id_checksums=np.array(self._columns.id_checksums, dtype=np.uint32),
            offsets={split: np.array(offsets) for split, offsets in self._offsets.items()},
        )


def build_index(manifest: Path) -> Index:
    """Build the index of a manifest by parsing all of its rows."""
    builder = IndexBuilder()
    from_json = (
        json.JSONDecoder().raw_decode
    )  # json.loads() also scans for whitespace on both sides
    with manifest.open("rb") as file:
        for line in file:
            row = from_json(line.decode())[0]
            builder.add(row, row["split"], len(line))
    return builder.index()


def write_index(manifest: Path, index: Index) -> None:
    """Write the index of a complete manifest."""
    columns = index.columns
    tensors = {name: getattr(columns, name) for name in COLUMNS}
    tensors |= {f"offsets.{split}": offsets for split, offsets in index.offsets.items()}
    tensors |= {"id_sums": index.id_checksums}
    metadata = {"kinds": json.dumps(columns.kinds), "fingerprint": columns.fingerprint}
    metadata |= _manifest_stat(manifest) | {
        "manifest": _file_digest(manifest),
        "columns": _columns_digest(tensors),
    }
    write_bytes(index_path(manifest), (save(tensors, metadata=metadata),))


def index_is_sound(manifest: Path) -> bool:
    """Return whether an index exists, and it and the manifest have their recorded checksums.

    This reads both files completely: about one second per gigabyte.
    """
    try:
        with safe_open(index_path(manifest), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return False
    if not metadata.items() >= _manifest_stat(manifest).items():
        return False
    intact = metadata.get("columns") == _columns_digest(tensors)
    return intact and metadata.get("manifest") == _file_digest(manifest)


def _columns_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {len(tensors[name])}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _file_digest(manifest: Path) -> str:
    with manifest.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_index(manifest: Path) -> Index | None:
    """Memory-map the index of a manifest; return None if there is no valid one."""
    path = index_path(manifest)
    try:
        with safe_open(path, framework="pt") as file:  # framework="np" would read it, not map it
            metadata = file.metadata() or {}
            if not metadata.items() >= _manifest_stat(manifest).items():
                return None
            tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None
    return Index(
        columns=ManifestColumns(
            **{name: tensors[name] for name in COLUMNS},
            kinds=[tuple(kind) for kind in json.loads(metadata["kinds"])],
            fingerprint=metadata["fingerprint"],
        ),
        id_checksums=tensors["id_sums"],
        offsets=dict(_splits(tensors)),
    )


def index_path(manifest: Path) -> Path:
    """Return the path of a manifest's index."""
    return manifest.with_suffix(".index.safetensors")


def _manifest_stat(manifest: Path) -> dict[str, str]:
    """Return what must match between a manifest and its index."""
    status = manifest.stat()
    return {"version": VERSION, "bytes": str(status.st_size), "changed": str(status.st_mtime_ns)}


def _splits(tensors: dict[str, Any]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for name, column in tensors.items():
        prefix, _, split = name.partition(".")
        if prefix == "offsets":
            yield split, column
