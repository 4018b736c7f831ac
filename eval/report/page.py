"""report.html of an evaluation: errors, their intervals and groups, and every utterance."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from data.atomic_files import read_jsonl, write_text
from data.errors import InputError
from data.pages.page import render
from eval.metrics.alignment import align, frequent_edits
from eval.metrics.breakdown import KEYS, LENGTHS, breakdowns, is_long, length_of
from eval.metrics.scores import saved_groups, short_names
from eval.report.figures import (
    HEADINGS,
    NUMBERS,
    columns,
    facts,
    hallucinations,
    noise_texts,
    normalizers,
    summaries,
    totals,
)
from eval.report.sound import Sound, embedded, linked

Row = dict[str, Any]  # of utterances.jsonl
# of a row, as they are on the page; loss and excess: what suspects cost in training
TEXTS = ("id", "reference", "hypothesis")
COLUMNS = (*TEXTS, "seconds", "edits", "units", "unit", "tokens", "loss", "excess", *KEYS)
NEEDED = ("id", "reference", "hypothesis", "reference_normalized", "hypothesis_normalized", "unit")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Write report.html of an evaluation from its files."""

    # Folder with scores.json and utterances.jsonl, which gets report.html.
    folder: tyro.conf.Positional[str]
    before: str | None = None  # Folder of an earlier evaluation to compare with.
    # Whether the page links to the audio files of the corpus, embeds the audio, or has none.
    audio: Literal["link", "embed", "none"] = "link"
    embed_clips: int = 200  # Clips whose audio is embedded: those with the most edits.

    def __post_init__(self) -> None:
        """Refuse values that could not work.

        Raises:
            InputError: a number is out of its range.
        """
        if self.embed_clips < 1:
            raise InputError(f"embed_clips must be at least 1, got {self.embed_clips}")


def report(config: ReportConfig) -> None:
    """Make the page, and say where it is."""
    before = Path(config.before) if config.before else None
    page = write_page(
        Path(config.folder), before, audio=config.audio, embed_clips=config.embed_clips
    )
    print(f"page: {page}")


def write_page(
    folder: Path, before: Path | None = None, *, audio: str = "link", embed_clips: int = 200
) -> Path:
    """Write report.html into the folder of an evaluation, from its files; return its path.

    Args:
        folder: with scores.json and utterances.jsonl.
        before: the folder of an earlier evaluation, to compare with.
        audio: link, embed or none, see ReportConfig.
        embed_clips: how many clips are embedded.

    Raises:
        InputError: a folder holds no evaluation, or one that cannot be read.
    """
    scores, rows = _read(folder)
    was, was_rows = _read(before) if before else ({}, [])
    earlier = _matched(rows, was_rows)
    here = Path(__file__)
    page = render(
        here.with_name("evaluation.html.j2"),
        script=here.with_name("evaluation.js"),
        name=_name(folder.resolve(), scores),
        before=_name(before.resolve(), was) if before else "",
        missed=sum(each is None for each in earlier),
        clips=len(rows),
        **_figures(folder.resolve().name if "step" in scores else "", scores, was),
        **_utterances(rows, earlier, _sounds(rows, folder, audio, embed_clips)),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Return what an evaluation's folder holds; of corpora only what tells them apart."""
    try:
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        rows = [dict.fromkeys(COLUMNS) | row for row in read_jsonl(folder / "utterances.jsonl")]
        needed: list[tuple[Row, tuple[str, ...]]] = [(row, NEEDED) for row in rows]
        needed += [(group, ("metric", "unit")) for _, group in saved_groups(scores)]
        lacking = next((key for row, keys in needed for key in keys if row.get(key) is None), None)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file: name an evaluation's folder") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: {error}: its files are damaged: score again") from error
    if lacking:
        raise InputError(
            f"{folder}: something in its files has no {lacking}: an earlier version wrote them, or "
            "another program: score again"
        )
    corpora = sorted({row["corpus"] or "" for row in rows})
    short = dict(zip(corpora, short_names(corpora), strict=True)) if corpora else {}
    return scores, [row | {"corpus": short[row["corpus"] or ""]} for row in rows]


def _matched(rows: Sequence[Row], earlier: Sequence[Row]) -> list[Row | None]:
    """Return the earlier row of each row's utterance; ids that come twice are in order."""
    known = dict(zip(_numbered(earlier), earlier, strict=True))
    return [known.get(key) for key in _numbered(rows)]


def _numbered(rows: Sequence[Row]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    keys = []
    for row in rows:
        counts[row["id"]] += 1
        keys.append((row["id"], counts[row["id"]]))
    return keys


def _sounds(rows: Sequence[Row], folder: Path, audio: str, embed_clips: int) -> list[Sound]:
    if audio == "none":
        return [Sound()] * len(rows)
    return embedded(rows, embed_clips) if audio == "embed" else linked(rows, folder)


def _figures(split: str, scores: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    """Return what the template says of scores.json."""
    found = totals(scores, was)
    rows = summaries(split, scores, was)
    return {
        "facts": facts(scores),
        "heads": {key: HEADINGS[key] for key in columns(rows)},
        "numbers": NUMBERS,
        "summaries": rows,
        "totals": found,
        "normalizers": normalizers(found),
        "hallucinations": hallucinations(scores, was),
        "noise_texts": noise_texts(scores),
    }


def _utterances(
    rows: Sequence[Row], earlier: Sequence[Row | None], sounds: Sequence[Sound]
) -> dict[str, Any]:
    """Return what the template and the script say of utterances.jsonl."""
    alignments = [align(row) for row in rows]
    edits = frequent_edits(alignments)
    parts = breakdowns(rows, [each["edits"] if each else None for each in earlier])
    data = {
        "columns": _columns(rows, earlier, sounds) | {"pieces": alignments},
        "edits": [(each.reference, each.hypothesis) for kind in edits.values() for each in kind],
        "slices": {part.key: [each.value for each in part.slices] for part in parts},
    }
    return {"rows": data, "parts": parts, "edits": edits}


def _columns(
    rows: Sequence[Row], earlier: Sequence[Row | None], sounds: Sequence[Sound]
) -> dict[str, list[Any]]:
    """Return the values of all rows by name: said once, a name takes no room in every row."""
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    columns["length"] = [length_of(row) for row in rows]
    columns["flags"] = [_flags(row) for row in rows]
    columns["sound"] = [sound.uri for sound in sounds]
    columns["silent"] = [sound.told for sound in sounds]
    columns["beforeText"] = [each and each["hypothesis"] for each in earlier]
    columns["beforeEdits"] = [each and each["edits"] for each in earlier]
    return columns


def _flags(row: Row) -> list[str]:
    """Return what is remarkable about a hypothesis."""
    said, heard = row["reference_normalized"].strip(), row["hypothesis_normalized"].strip()
    found = {
        "cut off": row.get("truncated"),
        "no text": said and not heard,
        "more errors than the reference is long": said
        and row["edits"]
        and row["edits"] > row["units"],
        "empty reference": not said,
        LENGTHS[-1]: is_long(row),
    }
    return [name for name, holds in found.items() if holds]


def _name(folder: Path, scores: dict[str, Any]) -> str:
    """Return what was scored: of a run's folder RUN/eval/step-XXXXXXXX/SPLIT, all three."""
    if "step" not in scores:
        return folder.name
    return f"{folder.parents[2].name}, {folder.name}, update {scores['step']}"
