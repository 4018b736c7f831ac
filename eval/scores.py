"""What an evaluation found: counts by language, short and long audio apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.features import CHUNK_SECONDS
from data.utterance import Utterance
from eval.errors import ErrorCounts, character_errors, word_errors
from eval.normalize import normalizer_for, unit_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """What a model heard in an utterance."""

    utterance: Utterance
    text: str
    tokens: int = 0  # of the text, without special ones
    truncated: bool = False  # decoding reached its most tokens

    def to_json(self) -> dict[str, Any]:
        """Return a row of utterances.jsonl: edits are of the raw texts, in the language's unit."""
        u = self.utterance
        count = word_errors if unit_of(u.language or "") == "word" else character_errors
        edits = count([u.text], [self.text]).edits if u.text else None
        return {
            "id": u.id,
            "language": u.language,
            "seconds": u.seconds,
            "reference": u.text,
            "hypothesis": self.text,
            "edits": edits,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "audio": u.audio,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The figures of one language."""

    language: str
    normalizer: str
    clips: int
    empty: int  # clips left out because their reference is empty, normalised
    wer: ErrorCounts
    cer: ErrorCounts
    wer_ortho: ErrorCounts
    cer_ortho: ErrorCounts

    @property
    def unit(self) -> str:
        """Return word or character."""
        return unit_of(self.language)

    @property
    def metric(self) -> str:
        """Return the name of the main figure."""
        return "WER" if self.unit == "word" else "CER"

    @property
    def error(self) -> ErrorCounts:
        """Return the main figure: normalised, in the language's unit."""
        return self.wer if self.unit == "word" else self.cer

    @property
    def error_ortho(self) -> ErrorCounts:
        """Return the same of the raw texts."""
        return self.wer_ortho if self.unit == "word" else self.cer_ortho

    def to_json(self) -> dict[str, Any]:
        """Return all counts and rates."""
        return {
            "clips": self.clips,
            "empty_references": self.empty,
            "metric": self.metric,
            "normalizer": self.normalizer,
            "wer": self.wer.to_json(),
            "cer": self.cer.to_json(),
            "wer_ortho": self.wer_ortho.to_json(),
            "cer_ortho": self.cer_ortho.to_json(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The figures of one evaluation."""

    groups: list[Group]  # clips up to 30 s, by language
    long: list[Group]  # longer ones
    corpora: dict[str, list[Group]]  # the short ones of each corpus, where there are several
    seconds: float  # wall time
    audio_seconds: float

    @property
    def error(self) -> float:
        """Return the figure that models are chosen by: all edits over all units, short clips."""
        return sum((group.error for group in self.groups), ErrorCounts()).rate

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
            name = group.language
            found |= {
                f"{name}/wer": group.wer.rate,
                f"{name}/cer": group.cer.rate,
                f"{name}/wer_ortho": group.wer_ortho.rate,
                f"{name}/cer_ortho": group.cer_ortho.rate,
            }
        for group in self.long:
            found[f"{group.language}/long_{group.metric.lower()}"] = group.error.rate
        for corpus, groups in self.corpora.items():
            for group in groups:
                name = f"{corpus}/{group.language}/{group.metric.lower()}"
                found[name] = group.error.rate
        return found


def score(hypotheses: Sequence[Hypothesis], normalizer: str, seconds: float) -> Scores:
    """Count errors by language, and by corpus; audio over 30 s is a group of its own.

    Args:
        hypotheses: each utterance once.
        normalizer: kind, see normalizer_for().
        seconds: wall time that decoding took.
    """
    ids = [h.utterance.id for h in hypotheses]
    assert len(ids) == len(set(ids)), "an utterance would count twice"
    short = [h for h in hypotheses if h.utterance.seconds <= CHUNK_SECONDS]
    long = [h for h in hypotheses if h.utterance.seconds > CHUNK_SECONDS]
    return Scores(
        groups=_groups(short, normalizer),
        long=_groups(long, normalizer),
        corpora=_corpora(short, normalizer),
        seconds=seconds,
        audio_seconds=sum(h.utterance.seconds for h in hypotheses),
    )


def _corpora(hypotheses: Sequence[Hypothesis], normalizer: str) -> dict[str, list[Group]]:
    """Return the groups of each corpus, where they tell more than those of the languages do."""
    by_corpus: dict[str, list[Hypothesis]] = {}
    for each in hypotheses:
        by_corpus.setdefault(each.utterance.corpus, []).append(each)
    groups = {corpus: _groups(part, normalizer) for corpus, part in sorted(by_corpus.items())}
    languages = [group.language for part in groups.values() for group in part]
    if len(languages) == len(set(languages)):  # each language is one corpus
        return {}
    return dict(zip(_short_names(list(groups)), groups.values(), strict=True))


def _short_names(paths: Sequence[str]) -> list[str]:
    """Return the last parts of each path: two, or as many as it takes to tell them apart."""
    longest = max(len(Path(path).parts) for path in paths)
    for kept in range(2, longest + 1):
        names = ["/".join(Path(path).parts[-kept:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _groups(hypotheses: Sequence[Hypothesis], normalizer: str) -> list[Group]:
    by_language: dict[str, list[Hypothesis]] = {}
    for each in hypotheses:
        by_language.setdefault(each.utterance.language or "", []).append(each)
    return [_group(name, part, normalizer) for name, part in sorted(by_language.items())]


def _group(language: str, hypotheses: Sequence[Hypothesis], kind: str) -> Group:
    normalizer = normalizer_for(kind, language)
    raw = [(h.utterance.text, h.text) for h in hypotheses]
    # a reference that normalises to nothing would make any text an endless error: left out, counted
    pairs = [
        (r, h, normalizer.apply(r), normalizer.apply(h)) for r, h in raw if normalizer.apply(r)
    ]
    ortho_r, ortho_h, norm_r, norm_h = ([pair[i] for pair in pairs] for i in range(4))
    return Group(
        language=language,
        normalizer=normalizer.name,
        clips=len(pairs),
        empty=len(raw) - len(pairs),
        wer=word_errors(norm_r, norm_h),
        cer=character_errors(norm_r, norm_h),
        wer_ortho=word_errors(ortho_r, ortho_h),
        cer_ortho=character_errors(ortho_r, ortho_h),
    )


def saved_groups(saved: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the groups of a scores.json as Scores.named() does."""
    found = list(saved["languages"].items())
    found += [(f"{language}, over 30 s", each) for language, each in saved["long"].items()]
    for corpus, groups in saved["corpora"].items():
        found += [(f"{language}, {corpus}", each) for language, each in groups.items()]
    return found
