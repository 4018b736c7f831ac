"""How a hypothesis lies along its reference: what was heard instead of what, added or left out."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import jiwer

Row = Mapping[str, Any]  # of utterances.jsonl
# a text that both have, or (of the reference, of the hypothesis): "" where one has nothing
Piece = str | tuple[str, str]
SHOWN = 24  # edits of each kind, the most frequent ones
# Thai, Lao, Myanmar, Khmer, kana, Han: in mixed text a character of theirs is a unit
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
CHARACTER = re.compile(f"({UNSPACED})")
BETWEEN = re.compile(f"(?<={UNSPACED}) (?={UNSPACED})")


class Edit(NamedTuple):
    """An edit, and how often it was made."""

    said: str  # "" where something was heard that nobody said
    heard: str  # "" where nothing was
    times: int
    clips: int  # in how many: a loop makes one edit a hundred times in one


def align(rows: Sequence[Row]) -> list[list[Piece]]:
    """Return the pieces of each row, aligned as its edits are counted: normalised, in its unit.

    There are as many pairs as edits. Where the reference is empty, what was heard is one piece.
    """
    found: list[list[Piece]] = [_heard_alone(row) for row in rows]
    for unit in ("word", "mixed", "character"):
        mine = [n for n, row in enumerate(rows) if row["unit"] == unit and _is_said(row)]
        if not mine:
            continue
        said, heard = (
            [_spaced(rows[n][f"{side}_normalized"], unit) for n in mine]
            for side in ("reference", "hypothesis")
        )
        process = jiwer.process_characters if unit == "character" else jiwer.process_words
        output = process(said, heard)
        aligned = zip(output.references, output.hypotheses, output.alignments, strict=True)
        for n, (ours, theirs, chunks) in zip(mine, aligned, strict=True):
            found[n] = list(_pieces(ours, theirs, chunks, unit))
    return found


def frequent(alignments: Sequence[Sequence[Piece]]) -> dict[str, list[Edit]]:
    """Return the most frequent edits, by kind."""
    times: Counter[tuple[str, str]] = Counter()
    clips: Counter[tuple[str, str]] = Counter()
    for pieces in alignments:
        edits = [piece for piece in pieces if not isinstance(piece, str)]
        times.update(edits)
        clips.update(set(edits))
    kinds: dict[str, list[Edit]] = {"heard instead": [], "added": [], "left out": []}
    for (said, heard), count in times.most_common():
        kind = "heard instead" if said and heard else "added" if heard else "left out"
        if len(kinds[kind]) < SHOWN:
            kinds[kind].append(Edit(said, heard, count, clips[said, heard]))
    return kinds


def _is_said(row: Row) -> bool:
    return bool(row["reference_normalized"].strip())


def _heard_alone(row: Row) -> list[Piece]:
    heard = row["hypothesis_normalized"].strip()
    return [("", heard)] if heard else []


def _spaced(text: str, unit: str) -> str:
    """Return a text whose units are parted by spaces, if they are to be words for jiwer."""
    return CHARACTER.sub(r" \1 ", text) if unit == "mixed" else text


def _joined(units: Sequence[str], unit: str) -> str:
    text = ("" if unit == "character" else " ").join(units)
    return BETWEEN.sub("", text) if unit == "mixed" else text


def _pieces(
    said: Sequence[str], heard: Sequence[str], chunks: Sequence[Any], unit: str
) -> Iterator[Piece]:
    for chunk in chunks:
        ours = said[chunk.ref_start_idx : chunk.ref_end_idx]
        theirs = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            yield _joined(ours, unit)
        else:
            yield from zip_longest(ours, theirs, fillvalue="")
