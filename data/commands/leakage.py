"""`python -m data leakage`: what two splits share, since scores on training data say little."""

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track

from data.atomic_files import write_json
from data.audio.open_audio import BROKEN, open_source
from data.config import DataConfig, Source
from data.corpora import read as read_corpus
from data.errors import InputError
from data.pages.tables import Table
from data.paths import refuse_within
from data.utterance import Utterance
from data.writing_systems import plain_text

EXAMPLES = 3
WIDTH = 40  # characters of an example
KINDS = ("clip", "sentence", "plain sentence", "speaker", "audio")
NOTE = (
    "Clips are compared by name, which Common Voice keeps over releases. Plain sentences are "
    "without case, punctuation and spaces. Shares are of the clips that have such a key at all."
)
Keys = Mapping[str, Counter[str]]  # by kind: number of clips by key


@dataclass(frozen=True, kw_only=True, slots=True)
class LeakageConfig:
    """Report the sentences and speakers that two splits share."""

    corpus: tyro.conf.Positional[str]  # Folder, manifest or name on the Hub of the training data.
    # Folder, manifest or name on the Hub of the data that is scored. It may be the same.
    other: tyro.conf.Positional[str]
    split: str = "train"  # Split of the first corpus. + joins several.
    other_split: str = "test"  # Split of the other corpus.
    audio: bool = False  # Compare the bytes of the audio too. This reads all of them.
    # JSON file for the result, with everything that is shared. None writes none.
    out: str | None = None
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """The shared keys of two splits, of one kind."""

    kind: str
    shared: list[str]  # keys, the most frequent of the first split first
    clips: int  # of the first split with a shared key
    of: int  # clips of the first split with any key
    other_clips: int
    other_of: int


def report_leakage(config: LeakageConfig) -> list[Shared]:
    """Compare two splits, and print what they share.

    Raises:
        InputError: a corpus or a split is missing, or the output file exists or is in a corpus.
    """
    out = Path(config.out) if config.out else None
    if out:
        refuse_within(out, (config.corpus, config.other))
    if out and out.exists():
        raise InputError(f"{out} exists already: remove it, or name another file with --out")
    pair = replace(config.data, corpus=(config.corpus, config.other)).sources
    first = _count_keys(config, pair[0], config.split)
    other = _count_keys(config, pair[1], config.other_split)
    overlaps = _compare(first, other)
    title = f"{config.corpus} {config.split}, and {config.other} {config.other_split}"
    Console(highlight=False).print(_table(overlaps, title).to_rich())
    if out:
        write_json(out, [asdict(overlap) for overlap in overlaps])
    return overlaps


def _compare(first: Keys, other: Keys) -> list[Shared]:
    """Return the shared keys, by kind."""
    return [
        Shared(
            kind=kind,
            shared=[key for key, _ in first[kind].most_common() if key in other[kind]],
            clips=sum(n for key, n in first[kind].items() if key in other[kind]),
            of=first[kind].total(),
            other_clips=sum(n for key, n in other[kind].items() if key in first[kind]),
            other_of=other[kind].total(),
        )
        for kind in first
    ]


def _keys_of(u: Utterance, *, audio: bool) -> dict[str, str | None]:
    """Return a clip's key of each kind; None or empty if it has none."""
    keys = (u.id, u.text, plain_text(u.text), u.speaker, audio_hash(u) if audio else None)
    return dict(zip(KINDS, keys, strict=True))


def audio_hash(u: Utterance) -> str | None:
    """Return a hash of a clip's bytes, plus a slice's times; None if they cannot be read."""
    digest = _digest(u.audio)
    return digest and (digest if u.end is None and not u.start else f"{digest}@{u.start}-{u.end}")


def _table(overlaps: list[Shared], title: str) -> Table:
    """Return the comparison as a table."""
    rows = []
    for overlap in overlaps:
        clips = (
            _format_share(overlap.clips, overlap.of),
            _format_share(overlap.other_clips, overlap.other_of),
        )
        examples = (
            key if len(key) <= WIDTH else f"{key[:WIDTH]}…" for key in overlap.shared[:EXAMPLES]
        )
        rows.append((overlap.kind, "\n".join(examples), f"{len(overlap.shared):,}", *clips))
    columns = ("", "such as", "shared", "of the first", "of the other")
    return Table(title, columns, rows, NOTE, texts=2)


def _count_keys(config: LeakageConfig, source: Source, split: str) -> Keys:
    data = replace(
        config.data,
        corpus=(source.name,),
        layout=(source.layout,),
        language=(),
        task=(source.task,),
        audio_root=(source.audio_root,) if source.audio_root else (),
    )
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    quiet = not (config.audio and sys.stdout.isatty())
    rows = track(read_corpus(data, split), f"hashing {split}", disable=quiet, transient=True)
    for u in rows:
        for kind, key in _keys_of(u, audio=config.audio).items():
            if key:
                counts[kind][key] += 1
    return counts if config.audio else {kind: counts[kind] for kind in KINDS[:-1]}


def _format_share(clips: int, of: int) -> str:
    return f"{clips:,} of {of:,} ({clips / of:.1%})" if of else "no clip has one"


@lru_cache(maxsize=64)  # slices of a recording are consecutive
def _digest(audio: str) -> str | None:
    try:
        source = open_source(audio)
        with open(source, "rb") if isinstance(source, str) else source as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except BROKEN:
        return None
