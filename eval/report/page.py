"""Write report.html of an evaluation: error rates, groups, frequent edits, all utterances."""

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
from eval.report.sound import Sound, embed_audio, link_audio

Row = dict[str, Any]  # of utterances.jsonl
# columns of the page; loss and excess are those of label errors
TEXTS = ("id", "reference", "hypothesis")
COLUMNS = (*TEXTS, "seconds", "edits", "units", "unit", "tokens", "loss", "excess", *KEYS)
REQUIRED = (*TEXTS, "reference_normalized", "hypothesis_normalized", "unit")


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
        """Check the values.

        Raises:
            InputError: a number is out of its range.
        """
        if self.embed_clips < 1:
            raise InputError(f"embed_clips must be at least 1, got {self.embed_clips}")


def report(config: ReportConfig) -> None:
    """Write the page, and print its path."""
    before = Path(config.before) if config.before else None
    page = write_page(
        Path(config.folder), before, audio=config.audio, embed_clips=config.embed_clips
    )
    print(f"page: {page}")


def write_page(
    folder: Path, before: Path | None = None, *, audio: str = "link", embed_clips: int = 200
) -> Path:
    """Write report.html into the folder of an evaluation, and return its path.

    Args:
        folder: with scores.json and utterances.jsonl.
        before: folder of an earlier evaluation to compare with.
        audio: link, embed or none, see ReportConfig.
        embed_clips: number of clips whose audio is embedded.

    Raises:
        InputError: a folder contains no evaluation, or a damaged one.
    """
    scores, rows = _read(folder)
    earlier_scores, earlier_rows = _read(before) if before else ({}, [])
    earlier = _match(rows, earlier_rows)
    source = Path(__file__)
    page = render(
        source.with_name("evaluation.html.j2"),
        script=source.with_name("evaluation.js"),
        name=_name(folder.resolve(), scores),
        before=_name(before.resolve(), earlier_scores) if before else "",
        missing=earlier.count(None),
        clips=len(rows),
        **_figures(folder.resolve().name if "step" in scores else "", scores, earlier_scores),
        **_utterances(rows, earlier, _sounds(rows, folder, audio, embed_clips)),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _read(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Return scores.json and utterances.jsonl, with short names of the corpora."""
    try:
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        rows = [dict.fromkeys(COLUMNS) | row for row in read_jsonl(folder / "utterances.jsonl")]
        required: list[tuple[Row, tuple[str, ...]]] = [(row, REQUIRED) for row in rows]
        required += [(group, ("metric", "unit")) for _, group in saved_groups(scores)]
        missing = next((k for row, keys in required for k in keys if row.get(k) is None), None)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: no such file: give the folder of an evaluation"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder}: its files are damaged ({error}): run the evaluation again"
        ) from error
    if missing:
        raise InputError(
            f"{folder}: the key {missing} is missing in scores.json or utterances.jsonl, which an "
            "earlier version or another program wrote: run the evaluation again"
        )
    corpora = sorted({row["corpus"] or "" for row in rows})
    short = dict(zip(corpora, short_names(corpora), strict=True)) if corpora else {}
    return scores, [row | {"corpus": short[row["corpus"] or ""]} for row in rows]


def _match(rows: Sequence[Row], earlier: Sequence[Row]) -> list[Row | None]:
    """Return the earlier row of each utterance; repeated ids are matched in order."""
    by_key = dict(zip(_unique_keys(earlier), earlier, strict=True))
    return [by_key.get(key) for key in _unique_keys(rows)]


def _unique_keys(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return the id of each row, with the number of its occurrence."""
    counts: Counter[str] = Counter()
    keys = []
    for row in rows:
        counts[row["id"]] += 1
        keys.append((row["id"], counts[row["id"]]))
    return keys


def _sounds(rows: Sequence[Row], folder: Path, audio: str, embed_clips: int) -> list[Sound]:
    if audio == "none":
        return [Sound()] * len(rows)
    return embed_audio(rows, embed_clips) if audio == "embed" else link_audio(rows, folder)


def _figures(split: str, scores: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of the template that are made from scores.json."""
    groups = totals(scores, earlier)
    rows = summaries(split, scores, earlier)
    return {
        "facts": facts(scores),
        "heads": {key: HEADINGS[key] for key in columns(rows)},
        "numbers": NUMBERS,
        "summaries": rows,
        "totals": groups,
        "normalizers": normalizers(groups),
        "hallucinations": hallucinations(scores, earlier),
        "noise_texts": noise_texts(scores),
    }


def _utterances(
    rows: Sequence[Row], earlier: Sequence[Row | None], sounds: Sequence[Sound]
) -> dict[str, Any]:
    """Return the variables of template and script that are made from utterances.jsonl."""
    alignments = [align(row) for row in rows]
    edits = frequent_edits(alignments)
    parts = breakdowns(rows, [row["edits"] if row else None for row in earlier])
    data = {
        "columns": _columns(rows, earlier, sounds) | {"pieces": alignments},
        "edits": [(edit.reference, edit.hypothesis) for kind in edits.values() for edit in kind],
        "slices": {part.key: [group.value for group in part.slices] for part in parts},
    }
    return {"rows": data, "parts": parts, "edits": edits}


def _columns(
    rows: Sequence[Row], earlier: Sequence[Row | None], sounds: Sequence[Sound]
) -> dict[str, list[Any]]:
    """Return the values of all rows by column, which takes less space than rows with keys."""
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    columns["length"] = [length_of(row) for row in rows]
    columns["flags"] = [_flags(row) for row in rows]
    columns["sound"] = [sound.uri for sound in sounds]
    columns["noSound"] = [sound.reason for sound in sounds]
    columns["beforeText"] = [row and row["hypothesis"] for row in earlier]
    columns["beforeEdits"] = [row and row["edits"] for row in earlier]
    return columns


def _flags(row: Row) -> list[str]:
    """Return the labels of an utterance, such as "cut off"."""
    reference = row["reference_normalized"].strip()
    hypothesis = row["hypothesis_normalized"].strip()
    flags = {
        "cut off": row.get("truncated"),
        "no text": reference and not hypothesis,
        "error rate over 100 %": reference and row["edits"] and row["edits"] > row["units"],
        "empty reference": not reference,
        LENGTHS[-1]: is_long(row),
    }
    return [name for name, is_set in flags.items() if is_set]


def _name(folder: Path, scores: dict[str, Any]) -> str:
    """Return the title: run, split and step if the folder is RUN/eval/step-XXXXXXXX/SPLIT."""
    if "step" not in scores:
        return folder.name
    return f"{folder.parents[2].name}, {folder.name}, update {scores['step']}"
