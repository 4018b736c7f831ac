"""Compare two models on the same utterances with a paired bootstrap test."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic_files import read_jsonl
from data.errors import InputError
from data.log_mel import CHUNK_SECONDS
from data.utterance import Utterance
from eval.metrics.confidence_intervals import (
    Difference,
    Interval,
    bootstrap_intervals,
    paired_bootstrap,
)
from eval.metrics.hypothesis import ComparedTexts, Hypothesis, compare_texts
from eval.metrics.units import METRICS
from eval.metrics.wer import ErrorCounts

UTTERANCES = "utterances.jsonl"  # in the folder of an evaluation
REQUIRED_KEYS = ("id", "reference", "hypothesis", "language")
COUNT_KEYS = ("edits", "units", "unit", "reference_normalized", "hypothesis_normalized")
ALL = "all"  # name of the comparison over all languages

Pair = tuple[Hypothesis, ComparedTexts, ComparedTexts]  # A's hypothesis, texts of A, texts of B


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """The comparison of two models on the clips of one language, or of all."""

    name: str
    metric: str  # WER, CER or MER; for all languages together: error
    normalizer: str
    difference: Difference
    sides: tuple[Interval, Interval] | None  # intervals of A's and B's rates; None for one clip

    @property
    def clips(self) -> int:
        """Number of clips compared."""
        return self.difference.better + self.difference.worse + self.difference.equal

    def to_json(self) -> dict[str, Any]:
        """Return the entry of compare.json."""
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
    """Read the hypotheses of an evaluation from its utterances.jsonl.

    Raises:
        InputError: the file does not exist, or was not written by an evaluation.
    """
    path = folder / UTTERANCES
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; name two folders that `python -m eval MODEL CORPUS` or a run "
            "wrote, or two models and a corpus"
        )
    hypotheses: dict[str, Hypothesis] = {}
    try:
        for row in read_jsonl(path):
            if row["id"] in hypotheses:
                raise InputError(f"{path}: {row['id']!r} is listed twice; score the model again")
            hypotheses[row["id"]] = _hypothesis({key: row[key] for key in REQUIRED_KEYS} | row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not written by an evaluation ({error!r}); score the model again"
        ) from error
    return list(hypotheses.values())


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
    """Compare the hypotheses of two models by language; clips over 30 s are compared apart.

    Utterances that only one model transcribed, and those with an empty reference, are left out.

    Args:
        first: hypotheses of A.
        second: hypotheses of B.
        normalizer: kind, see normalizer_for().
        unit: kind, see unit_of().

    Raises:
        InputError: A and B share no utterance, or one has two references.
    """
    by_id = {h.utterance.id: h for h in second}
    shared = [(h, by_id[h.utterance.id]) for h in first if h.utterance.id in by_id]
    pairs: list[Pair] = []
    for a, b in shared:
        if (a.utterance.text, a.text_language) != (b.utterance.text, b.text_language):
            raise InputError(
                f"{a.utterance.id}: A was scored against {a.utterance.text!r} in "
                f"{a.text_language!r}, B against {b.utterance.text!r} in {b.text_language!r}: "
                "score both again"
            )
        texts_a, texts_b = (compare_texts(h, normalizer, unit) for h in (a, b))
        pairs.append((a, texts_a, texts_b))
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
    """Return the rows of utterances.jsonl that have counts of errors."""
    path = folder / UTTERANCES
    try:
        rows = [row for row in read_jsonl(path) if row["edits"] is not None]
        return [{key: row[key] for key in (*REQUIRED_KEYS, *COUNT_KEYS)} | row for row in rows]
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
    """Yield the comparison of each language, and of all if there are several."""
    long = [pair for pair in pairs if pair[0].utterance.seconds > CHUNK_SECONDS]
    short = [pair for pair in pairs if pair[0].utterance.seconds <= CHUNK_SECONDS]
    for part, name in ((short, "{}"), (long, "{}, over 30 s")):
        for language in sorted({pair[0].languages for pair in part}):
            group = [pair for pair in part if pair[0].languages == language]
            _, texts, _ = group[0]
            yield _compare_group(
                name.format(language), texts.metric.upper(), texts.normalizer, group
            )
    if len({pair[0].languages for pair in short}) > 1:
        normalizers = sorted({texts.normalizer for _, texts, _ in short})
        yield _compare_group(ALL, "error", "; ".join(normalizers), short)


def _compare_group(name: str, metric: str, normalizer: str, pairs: Sequence[Pair]) -> Compare:
    counts = [(a.counts[a.metric], b.counts[a.metric]) for _, a, b in pairs]
    edits = np.array([[a.edits, b.edits] for a, b in counts])
    units = np.array([[a.units, a.units] for a, _ in counts])
    speakers = [pair[0].speaker for pair in pairs]
    sides = bootstrap_intervals(edits, units, speakers)
    return Compare(
        name=name,
        metric=metric,
        normalizer=normalizer,
        difference=paired_bootstrap(edits[:, 0], edits[:, 1], units[:, 0], speakers),
        sides=(sides[0], sides[1]) if sides else None,
    )
