"""What two splits share: a score says little on what a model was trained on."""

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
from data.audio.source import BROKEN, open_source
from data.config import DataConfig, Source
from data.corpora import read as read_corpus
from data.errors import InputError
from data.pages.tables import Table
from data.paths import refuse_within
from data.utterance import Utterance
from data.writing_systems import plain

EXAMPLES = 3
WIDTH = 40  # characters of an example
KINDS = ("clip", "sentence", "plain sentence", "speaker", "audio")
NOTE = (
    "A clip is known by its name, which Common Voice keeps over releases. A plain sentence is one "
    "without case, punctuation and spaces. Shares are of the clips that have such a thing at all."
)
Keys = Mapping[str, Counter[str]]  # by kind: how many clips have each


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
    """What two splits share of one kind."""

    kind: str
    shared: list[str]  # the most frequent of the first split first
    clips: int  # of the first split that have one of these
    of: int  # clips of the first split that have such a thing at all
    other_clips: int
    other_of: int


def report_leakage(config: LeakageConfig) -> list[Shared]:
    """Compare two splits, and tell what they share.

    Raises:
        InputError: a corpus or a split is missing, or the file to write exists or lies in one.
    """
    out = Path(config.out) if config.out else None
    if out:
        refuse_within(out, (config.corpus, config.other))
    if out and out.exists():
        raise InputError(f"{out} exists already: remove it, or name another file with --out")
    pair = replace(config.data, corpus=(config.corpus, config.other)).sources
    first = _keys(config, pair[0], config.split)
    other = _keys(config, pair[1], config.other_split)
    found = _compare(first, other)
    title = f"{config.corpus} {config.split}, and {config.other} {config.other_split}"
    Console(highlight=False).print(_table(found, title).drawn())
    if out:
        write_json(out, [asdict(each) for each in found])
    return found


def _compare(first: Keys, other: Keys) -> list[Shared]:
    """Return what both have, kind by kind."""
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
    """Return what a clip may share with another, by kind; None or empty where it has none."""
    keys = (u.id, u.text, plain(u.text), u.speaker, audio_hash(u) if audio else None)
    return dict(zip(KINDS, keys, strict=True))


def audio_hash(u: Utterance) -> str | None:
    """Return a hash of a clip's bytes, and the times of a slice; None where they cannot be read."""
    digest = _digest(u.audio)
    return digest and (digest if u.end is None and not u.start else f"{digest}@{u.start}-{u.end}")


def _table(found: list[Shared], title: str) -> Table:
    """Return the comparison as a table."""
    rows = []
    for each in found:
        clips = (_share(each.clips, each.of), _share(each.other_clips, each.other_of))
        told = (key if len(key) <= WIDTH else f"{key[:WIDTH]}…" for key in each.shared[:EXAMPLES])
        rows.append((each.kind, "\n".join(told), f"{len(each.shared):,}", *clips))
    columns = ("", "such as", "shared", "of the first", "of the other")
    return Table(title, columns, rows, NOTE, texts=2)


def _keys(config: LeakageConfig, source: Source, split: str) -> Keys:
    data = replace(
        config.data,
        corpus=(source.name,),
        layout=(source.layout,),
        language=(),
        task=(source.task,),
        audio_root=(source.audio_root,) if source.audio_root else (),
    )
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    quiet = not (config.audio and sys.stdout.isatty())
    rows = track(read_corpus(data, split), f"hashing {split}", disable=quiet, transient=True)
    for u in rows:
        for kind, key in _keys_of(u, audio=config.audio).items():
            if key:
                found[kind][key] += 1
    return found if config.audio else {kind: found[kind] for kind in KINDS[:-1]}


def _share(clips: int, of: int) -> str:
    return f"{clips:,} of {of:,} ({clips / of:.1%})" if of else "none has one"


@lru_cache(maxsize=64)  # slices of a recording come one after another
def _digest(audio: str) -> str | None:
    try:
        source = open_source(audio)
        with open(source, "rb") if isinstance(source, str) else source as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except BROKEN:
        return None
