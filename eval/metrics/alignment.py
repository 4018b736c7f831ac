"""How a hypothesis lies along its reference: what was heard instead of what, added or left out."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from eval.metrics.units import pieces
from eval.metrics.wer import aligned

Row = Mapping[str, Any]  # of utterances.jsonl
# a text that both have, or (of the reference, of the hypothesis): "" where one has nothing
Piece = str | tuple[str, str]
SHOWN = 24  # edits of each kind, the most frequent ones
WIDE = "[\u2e80-\u9fff\uf900-\ufaff]"  # Han, kana and what is near them: no spaces between
BETWEEN = re.compile(f"(?<={WIDE}) (?={WIDE})")


class Edit(NamedTuple):
    """An edit, and how often it was made."""

    said: str  # "" where something was heard that nobody said
    heard: str  # "" where nothing was
    times: int
    clips: int  # in how many: a loop makes one edit a hundred times in one


def align(row: Row) -> list[Piece]:
    """Return the pieces of a row, aligned as its edits are counted: normalised, in its unit.

    There are as many pairs as edits. Where the reference is empty, what was heard is one piece.
    """
    unit = row["unit"]
    said, heard = (pieces(row[f"{side}_normalized"], unit) for side in ("reference", "hypothesis"))
    return list(_aligned(said, heard, unit) if said else _heard_alone(heard, unit))


def frequent(alignments: Sequence[Sequence[Piece]]) -> dict[str, list[Edit]]:
    """Return the most frequent edits, by kind."""
    times: Counter[tuple[str, str]] = Counter()
    clips: Counter[tuple[str, str]] = Counter()
    for alignment in alignments:
        edits = [piece for piece in alignment if not isinstance(piece, str)]
        times.update(edits)
        clips.update(set(edits))
    kinds: dict[str, list[Edit]] = {"substitutions": [], "deletions": [], "insertions": []}
    for (said, heard), count in times.most_common():
        kind = "substitutions" if said and heard else "deletions" if said else "insertions"
        if len(kinds[kind]) < SHOWN:
            kinds[kind].append(Edit(said, heard, count, clips[said, heard]))
    return kinds


def _aligned(said: Sequence[str], heard: Sequence[str], unit: str) -> Iterator[Piece]:
    for step in aligned(said, heard, unit).alignments[0]:
        ours = said[step.ref_start_idx : step.ref_end_idx]
        if step.type == "equal":
            yield _joined(ours, unit)
        else:
            yield from zip_longest(ours, heard[step.hyp_start_idx : step.hyp_end_idx], fillvalue="")


def _heard_alone(heard: Sequence[str], unit: str) -> Iterator[Piece]:
    if heard:
        yield "", _joined(heard, unit)


def _joined(units: Sequence[str], unit: str) -> str:
    text = ("" if unit == "character" else " ").join(units)
    return BETWEEN.sub("", text) if unit == "mixed" else text
