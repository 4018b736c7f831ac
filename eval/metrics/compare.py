"""Is B better than A? The same utterances, heard by two models, compared in pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic_files import read_jsonl
from data.errors import InputError
from data.log_mel import CHUNK_SECONDS
from data.utterance import Utterance
from eval.metrics.confidence import Difference, Interval, intervals, paired
from eval.metrics.hypothesis import ComparedTexts, Hypothesis, compare_texts
from eval.metrics.units import METRICS
from eval.metrics.wer import ErrorCounts

UTTERANCES = "utterances.jsonl"  # of an evaluation's folder
NEEDED = ("id", "reference", "hypothesis", "language")
COUNTED = ("edits", "units", "unit", "reference_normalized", "hypothesis_normalized")
ALL = "all"  # languages together

Pair = tuple[
    Hypothesis, ComparedTexts, ComparedTexts
]  # an utterance, what A made of it, what B made of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """Two models on the clips of a language, or of all."""

    name: str
    metric: str  # WER, CER or MER; of all languages together: error
    normalizer: str
    difference: Difference
    sides: tuple[Interval, Interval] | None  # of A's and B's rates; None: of a single utterance

    @property
    def clips(self) -> int:
        """Return how many were compared."""
        return self.difference.better + self.difference.worse + self.difference.equal

    def to_json(self) -> dict[str, Any]:
        """Return what compare.json holds of it."""
        sides = self.sides or (None, None)
        ends = [side and [side.low, side.high] for side in sides]
        return {
            "clips": self.clips,
            "metric": self.metric,
            "normalizer": self.normalizer,
            **self.difference.to_json(),
            "a_interval": ends[0],
            "b_interval": ends[1],
        }


def read_hypotheses(folder: Path) -> list[Hypothesis]:
    """Return what was heard in an evaluation, from its utterances.jsonl.

    Raises:
        InputError: there is no such file, or it is not one.
    """
    path = folder / UTTERANCES
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; name two folders that `python -m eval MODEL CORPUS` or a run "
            "wrote, or two models and a corpus"
        )
    found: dict[str, Hypothesis] = {}
    try:
        for row in read_jsonl(path):
            if row["id"] in found:
                raise InputError(f"{path}: {row['id']!r} is listed twice; score the model again")
            found[row["id"]] = _hypothesis({key: row[key] for key in NEEDED} | row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not what an evaluation wrote ({error!r}); score the model again"
        ) from error
    return list(found.values())


def _hypothesis(row: dict[str, Any]) -> Hypothesis:
    utterance = Utterance(
        id=row["id"],
        audio=row.get("audio", ""),
        text=str(row["reference"]),
        seconds=float(row.get("seconds", 0.0)),
        language=row["language"],
        task=row.get("task", "transcribe"),
        speaker=row.get("speaker"),
        corpus=row.get("corpus", ""),
    )
    return Hypothesis(utterance=utterance, text=str(row["hypothesis"]))


def compare(
    first: Sequence[Hypothesis], second: Sequence[Hypothesis], normalizer: str, unit: str = "auto"
) -> list[Compare]:
    """Compare what two models heard, by language; clips over 30 s apart, as in the scores.

    Utterances that only one of them heard, and those whose reference is empty, are left out.

    Args:
        first: what A heard.
        second: what B heard.
        normalizer: kind, see normalizer_for().
        unit: kind, see unit_of().

    Raises:
        InputError: they share no utterance, or one has two references.
    """
    heard = {h.utterance.id: h for h in second}
    shared = [(h, heard[h.utterance.id]) for h in first if h.utterance.id in heard]
    pairs: list[Pair] = []
    for a, b in shared:
        if (a.utterance.text, a.written) != (b.utterance.text, b.written):
            raise InputError(
                f"{a.utterance.id}: A was scored against {a.utterance.text!r} in "
                f"{a.written!r}, B against {b.utterance.text!r} in {b.written!r}: score both anew"
            )
        one, other = (compare_texts(each, normalizer, unit) for each in (a, b))
        pairs.append((a, one, other))
    pairs = [pair for pair in pairs if pair[1].counts]
    if not pairs:
        raise InputError(
            "A and B have no utterance with a reference in common: compare two models on one corpus"
        )
    return list(_compares(pairs))


def compare_saved(first: Path, second: Path) -> list[Compare]:
    """Compare two evaluations of a run by the edits in their files: no text is normalised again.

    Args:
        first: folder of A's evaluation.
        second: folder of B's, scored with the same knobs.

    Raises:
        InputError: a folder holds no evaluation, or one that cannot be read.
    """
    mine, other = ({row["id"]: row for row in _counted(folder)} for folder in (first, second))
    pairs = [
        (_hypothesis(row), _saved(row), _saved(other[name]))
        for name, row in mine.items()
        if name in other and other[name]["units"] == row["units"]
    ]
    return list(_compares(pairs))


def _counted(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of utterances.jsonl that count."""
    path = folder / UTTERANCES
    try:
        rows = [row for row in read_jsonl(path) if row["edits"] is not None]
        return [{key: row[key] for key in (*NEEDED, *COUNTED)} | row for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be compared ({error!r}); score the model again"
        ) from error


def _saved(row: dict[str, Any]) -> ComparedTexts:
    counts = ErrorCounts(substitutions=row["edits"], units=row["units"])
    return ComparedTexts(
        reference=row["reference_normalized"],
        hypothesis=row["hypothesis_normalized"],
        unit=row["unit"],
        normalizer="",
        counts={METRICS[row["unit"]]: counts},
    )


def _compares(pairs: Sequence[Pair]) -> Iterable[Compare]:
    """Yield the comparison of each language, and of all where there are several."""
    long = [pair for pair in pairs if pair[0].utterance.seconds > CHUNK_SECONDS]
    short = [pair for pair in pairs if pair[0].utterance.seconds <= CHUNK_SECONDS]
    for part, of in ((short, "{}"), (long, "{}, over 30 s")):
        for language in sorted({pair[0].languages for pair in part}):
            mine = [pair for pair in part if pair[0].languages == language]
            _, one, _ = mine[0]
            yield _compared(of.format(language), one.metric.upper(), one.normalizer, mine)
    if len({pair[0].languages for pair in short}) > 1:
        names = sorted({one.normalizer for _, one, _ in short})
        yield _compared(ALL, "error", "; ".join(names), short)


def _compared(name: str, metric: str, normalizer: str, pairs: Sequence[Pair]) -> Compare:
    counts = [(one.counts[one.metric], other.counts[one.metric]) for _, one, other in pairs]
    edits = np.array([[a.edits, b.edits] for a, b in counts])
    units = np.array([[a.units, a.units] for a, _ in counts])
    speakers = [pair[0].speaker for pair in pairs]
    found = intervals(edits, units, speakers)
    return Compare(
        name=name,
        metric=metric,
        normalizer=normalizer,
        difference=paired(edits[:, 0], edits[:, 1], units[:, 0], speakers),
        sides=(found[0], found[1]) if found else None,
    )
