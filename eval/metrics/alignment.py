"""Align hypotheses with references, and count the most frequent edits."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from eval.metrics.units import split_units
from eval.metrics.wer import align_units

Row = Mapping[str, Any]  # of utterances.jsonl
# text that both have, or an edit (reference, hypothesis) with "" for an insertion or deletion
Piece = str | tuple[str, str]
MAX_EDITS = 24  # most frequent edits of each kind
WIDE = "[\u2e80-\u9fff\uf900-\ufaff]"  # Han, kana and neighbouring blocks, written without spaces
SPACE_BETWEEN_WIDE = re.compile(f"(?<={WIDE}) (?={WIDE})")


class Edit(NamedTuple):
    """An edit and its frequency."""

    reference: str  # "" for an insertion
    hypothesis: str  # "" for a deletion
    times: int
    clips: int  # number of clips with it: a decoding loop repeats an edit in one clip


def align(row: Row) -> list[Piece]:
    """Return the aligned pieces of a row's normalized texts, in its unit.

    There are as many pairs as edits. With an empty reference the hypothesis is one insertion.
    """
    unit = row["unit"]
    reference = split_units(row["reference_normalized"], unit)
    hypothesis = split_units(row["hypothesis_normalized"], unit)
    if reference:
        return list(_aligned_pieces(reference, hypothesis, unit))
    return [("", _join_units(hypothesis, unit))] if hypothesis else []


def frequent_edits(alignments: Sequence[Sequence[Piece]]) -> dict[str, list[Edit]]:
    """Return the most frequent edits of each kind."""
    times: Counter[tuple[str, str]] = Counter()
    clips: Counter[tuple[str, str]] = Counter()
    for alignment in alignments:
        edits = [piece for piece in alignment if not isinstance(piece, str)]
        times.update(edits)
        clips.update(set(edits))
    kinds: dict[str, list[Edit]] = {"substitutions": [], "deletions": [], "insertions": []}
    for (ref, hyp), count in times.most_common():
        kind = "substitutions" if ref and hyp else "deletions" if ref else "insertions"
        if len(kinds[kind]) < MAX_EDITS:
            kinds[kind].append(Edit(ref, hyp, count, clips[ref, hyp]))
    return kinds


def _aligned_pieces(
    reference: Sequence[str], hypothesis: Sequence[str], unit: str
) -> Iterator[Piece]:
    for chunk in align_units(reference, hypothesis, unit).alignments[0]:
        ref = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        hyp = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            yield _join_units(ref, unit)
        else:
            yield from zip_longest(ref, hyp, fillvalue="")


def _join_units(units: Sequence[str], unit: str) -> str:
    text = ("" if unit == "character" else " ").join(units)
    return SPACE_BETWEEN_WIDE.sub("", text) if unit == "mixed" else text
