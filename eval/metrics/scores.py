"""What an evaluation found: counts by language, short and long audio apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.log_mel import CHUNK_SECONDS
from eval.metrics.confidence import Interval
from eval.metrics.groups import DecodeResult, Group, groups_of, pooled
from eval.metrics.hypothesis import ComparedTexts, Hypothesis, compare_texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The figures of one evaluation."""

    groups: list[Group]  # clips up to 30 s, by language
    long: list[Group]  # longer ones
    corpora: dict[str, list[Group]]  # the short ones of each corpus, where there are several
    seconds: float  # wall time
    audio_seconds: float
    error: float  # what models are chosen by: all edits over all units, short clips
    interval: Interval | None  # of it; None: of fewer than two clips nothing can be said
    compared: Mapping[str, ComparedTexts] = field(repr=False)  # each utterance's texts, by id

    def named(self) -> list[tuple[str, Group]]:
        """Return all groups, with what they are of."""
        found = [(group.language, group) for group in self.groups]
        found += [(f"{group.language}, over 30 s", group) for group in self.long]
        for corpus, groups in self.corpora.items():
            found += [(f"{group.language}, {corpus}", group) for group in groups]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what scores.json holds."""
        return {
            "error": self.error,
            **(self.interval.to_json() if self.interval else {"interval": None, "bootstrap": None}),
            "languages": {group.language: group.to_json() for group in self.groups},
            "long": {group.language: group.to_json() for group in self.long},
            "corpora": {
                corpus: {group.language: group.to_json() for group in groups}
                for corpus, groups in self.corpora.items()
            },
            "seconds": round(self.seconds, 3),
            "audio_seconds": round(self.audio_seconds, 3),
            "clips_per_second": sum(g.clips + g.empty for g in self.groups + self.long)
            / max(self.seconds, 1e-9),
        }

    def metrics(self) -> dict[str, float]:
        """Return the main figures under slash names, for the recorder. Rates are fractions."""
        found = {"error": self.error}
        for group in self.groups:
            figures = group.figures.items()
            found |= {f"{group.language}/{name}": counts.rate for name, counts in figures}
        for group in self.long:
            found[f"{group.language}/long_{group.metric.lower()}"] = group.error.rate
        for corpus, groups in self.corpora.items():
            for group in groups:
                name = f"{corpus}/{group.language}/{group.metric.lower()}"
                found[name] = group.error.rate
        return found


def score(
    hypotheses: Sequence[Hypothesis], normalizer: str, seconds: float, unit: str = "auto"
) -> Scores:
    """Count errors by language, and by corpus; audio over 30 s is a group of its own.

    Args:
        hypotheses: each utterance once.
        normalizer: kind, see normalizer_for().
        seconds: wall time that decoding took.
        unit: kind, see unit_of().
    """
    ids = [h.utterance.id for h in hypotheses]
    assert len(ids) == len(set(ids)), "an utterance would count twice"
    heard = [(h, compare_texts(h, normalizer, unit)) for h in hypotheses]
    short = [each for each in heard if each[0].utterance.seconds <= CHUNK_SECONDS]
    long = [each for each in heard if each[0].utterance.seconds > CHUNK_SECONDS]
    error, interval = pooled(short)
    return Scores(
        groups=groups_of(short),
        long=groups_of(long),
        corpora=_corpora(short),
        seconds=seconds,
        audio_seconds=sum(h.utterance.seconds for h in hypotheses),
        error=error.rate,
        interval=interval,
        compared={h.utterance.id: compared for h, compared in heard},
    )


def _corpora(heard: Sequence[DecodeResult]) -> dict[str, list[Group]]:
    """Return the groups of each corpus, where they tell more than those of the languages do."""
    by_corpus: dict[str, list[DecodeResult]] = {}
    for each in heard:
        by_corpus.setdefault(each[0].utterance.corpus, []).append(each)
    languages = [
        language
        for part in by_corpus.values()
        for language in {hypothesis.languages for hypothesis, _ in part}
    ]
    if len(languages) == len(set(languages)):  # each language is one corpus
        return {}
    groups = {corpus: groups_of(part) for corpus, part in sorted(by_corpus.items())}
    return dict(zip(short_names(list(groups)), groups.values(), strict=True))


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the last parts of each path: two, or as many as it takes to tell them apart."""
    longest = max(len(Path(path).parts) for path in paths)
    for kept in range(2, longest + 1):
        names = ["/".join(Path(path).parts[-kept:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def saved_groups(saved: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the groups of a scores.json as Scores.named() does."""
    found = list(saved["languages"].items())
    found += [(f"{language}, over 30 s", each) for language, each in saved["long"].items()]
    for corpus, groups in saved["corpora"].items():
        found += [(f"{language}, {corpus}", each) for language, each in groups.items()]
    return found
