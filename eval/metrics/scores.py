"""Scores of an evaluation: error rates by language, corpus, and short or long audio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.log_mel import CHUNK_SECONDS
from eval.metrics.confidence_intervals import Interval
from eval.metrics.groups import Group, ScoredHypothesis, group_by_language, pooled_error
from eval.metrics.hypothesis import ComparedTexts, Hypothesis, compare_texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The scores of one evaluation."""

    groups: list[Group]  # clips up to 30 s, by language
    long: list[Group]  # clips over 30 s, by language
    corpora: dict[str, list[Group]]  # clips up to 30 s, by corpus and language; {} for one corpus
    seconds: float  # wall time
    audio_seconds: float
    error: float  # selects the best model: all edits over all units, clips up to 30 s
    interval: Interval | None  # of the error; None for fewer than two clips
    compared: Mapping[str, ComparedTexts] = field(repr=False)  # by utterance id

    def named_groups(self) -> list[tuple[str, Group]]:
        """Return all groups with their names, such as "zh, over 30 s"."""
        named = [(group.language, group) for group in self.groups]
        named += [(f"{group.language}, over 30 s", group) for group in self.long]
        for corpus, groups in self.corpora.items():
            named += [(f"{group.language}, {corpus}", group) for group in groups]
        return named

    def to_json(self) -> dict[str, Any]:
        """Return the content of scores.json."""
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
        """Return the metrics for the recorder, by slash name. Rates are fractions."""
        metrics = {"error": self.error}
        for group in self.groups:
            for name, counts in group.figures.items():
                metrics[f"{group.language}/{name}"] = counts.rate
        for group in self.long:
            metrics[f"{group.language}/long_{group.metric.lower()}"] = group.error.rate
        for corpus, groups in self.corpora.items():
            for group in groups:
                name = f"{corpus}/{group.language}/{group.metric.lower()}"
                metrics[name] = group.error.rate
        return metrics


def score(
    hypotheses: Sequence[Hypothesis], normalizer: str, seconds: float, unit: str = "auto"
) -> Scores:
    """Score hypotheses by language and by corpus; clips over 30 s are scored apart.

    Args:
        hypotheses: with unique utterance ids.
        normalizer: kind, see normalizer_for().
        seconds: wall time of decoding.
        unit: kind, see unit_of().
    """
    ids = [h.utterance.id for h in hypotheses]
    assert len(ids) == len(set(ids)), "an utterance would count twice"
    scored = [(h, compare_texts(h, normalizer, unit)) for h in hypotheses]
    short = [(h, c) for h, c in scored if h.utterance.seconds <= CHUNK_SECONDS]
    long = [(h, c) for h, c in scored if h.utterance.seconds > CHUNK_SECONDS]
    error, interval = pooled_error(short)
    return Scores(
        groups=group_by_language(short),
        long=group_by_language(long),
        corpora=_corpora(short),
        seconds=seconds,
        audio_seconds=sum(h.utterance.seconds for h in hypotheses),
        error=error.rate,
        interval=interval,
        compared={h.utterance.id: compared for h, compared in scored},
    )


def _corpora(scored: Sequence[ScoredHypothesis]) -> dict[str, list[Group]]:
    """Return the groups of each corpus; {} if these are the groups by language."""
    by_corpus: dict[str, list[ScoredHypothesis]] = {}
    for hypothesis, compared in scored:
        by_corpus.setdefault(hypothesis.utterance.corpus, []).append((hypothesis, compared))
    languages = [
        language
        for part in by_corpus.values()
        for language in {hypothesis.languages for hypothesis, _ in part}
    ]
    if len(languages) == len(set(languages)):  # no language is in two corpora
        return {}
    groups = {corpus: group_by_language(part) for corpus, part in sorted(by_corpus.items())}
    return dict(zip(short_names(list(groups)), groups.values(), strict=True))


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the last two parts of each path, or more if needed to make them unique."""
    longest = max(len(Path(path).parts) for path in paths)
    for length in range(2, longest + 1):
        names = ["/".join(Path(path).parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def saved_groups(saved: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the groups of a scores.json with their names, as Scores.named_groups() does."""
    named = list(saved["languages"].items())
    named += [(f"{language}, over 30 s", group) for language, group in saved["long"].items()]
    for corpus, groups in saved["corpora"].items():
        named += [(f"{language}, {corpus}", group) for language, group in groups.items()]
    return named
