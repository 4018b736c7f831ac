"""What a survey found, as tables."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from data.audio.source import AudioError, opened
from data.commands.inspect_columns import ColumnStatistics
from data.commands.inspect_outliers import DEVIATIONS, ENOUGH, FACTOR, RARE, SpeakingRate, Suspicion
from data.commands.inspect_survey import Survey
from data.pages.tables import Table
from data.utterance import Utterance
from data.writing_systems import SCRIPTS

PERCENTILES = (1, 50, 99)
RAREST = 12  # characters of a script that are shown
SHOWN = 100  # characters of a sentence that is repeated
MARKS = 30  # characters without a script that are shown


def overview(survey: Survey) -> Table:
    """Return clips, hours and speakers, by split and in all."""
    columns = survey.columns
    kept, seconds = columns.numbers("kept") == 1, columns.numbers("seconds")
    rows = []
    for split in filter(survey.listed.__contains__, survey.splits):
        inside = kept & columns.where("split", split)
        rows.append((split, *_counts(columns, survey.listed[split], inside, seconds)))
    if len(rows) > 1:
        rows.append(("all", *_counts(columns, survey.listed.total(), kept, seconds)))
    absent = (f"{split} is not there ({told})." for split, told in survey.absent.items())
    counted = ("listed", "kept", "hours", "mean s", "speakers", "unnamed")
    return Table("clips", ("split", *counted), rows, " ".join(absent))


def _counts(
    columns: ColumnStatistics, listed: int, inside: NDArray[np.bool_], seconds: NDArray[np.float64]
) -> list[str]:
    clips = int(inside.sum())
    lengths = seconds[inside] if clips else np.zeros(1)
    speakers = columns.count("speaker", inside)
    unnamed = clips - sum(speakers.values())
    figures = (f"{lengths.sum() / 3600:,.2f}", f"{lengths.mean():.2f}")
    return [f"{listed:,}", f"{clips:,}", *figures, f"{len(speakers):,}", f"{unnamed:,}"]


def left_out(survey: Survey) -> Table:
    """Return what training would leave out: by split and reason, with an example."""
    rows = []
    for (split, reason), count in survey.left_out.most_common():
        example = survey.examples[split, reason]
        told = f"{example.id}: {example.detail}" if example.detail else example.id
        rows.append((split, reason, told, f"{count:,}"))
    note = "drops.jsonl names each with its file." if rows else "Nothing is."
    return Table("left out of training", ("split", "reason", "such as", "clips"), rows, note, 3)


def speech_rates(columns: ColumnStatistics, paces: list[SpeakingRate]) -> Table:
    """Return how fast each language is spoken, and when a clip is suspicious."""
    rows = []
    for language in columns.names("language"):
        inside = columns.where("language", language) & (columns.numbers("seconds") > 0)
        for unit in ("letters", "tokens"):
            said = columns.numbers(unit)[inside]
            if not said.any():
                continue
            spread = np.percentile(said / columns.numbers("seconds")[inside], PERCENTILES)
            told = [
                _usual(pace) for pace in paces if (pace.language, pace.unit) == (language, unit)
            ]
            rates = (f"{rate:.1f}" for rate in spread)
            rows.append((language or "not said", unit, *(told or [""]), *rates))
    names = ("language", "a second", "suspicious", *(f"{p} %" for p in PERCENTILES))
    note = (
        "Letters are letters, marks and numbers; a second is one of the clip, silence included. "
        f"Suspicious is what lies beyond {FACTOR:g} times the usual, or {DEVIATIONS:g} robust "
        f"standard deviations where that is more; of fewer than {ENOUGH} clips nothing is said."
    )
    return Table("rate of speech", names, rows, note, texts=3)


def _usual(pace: SpeakingRate) -> str:
    unit = pace.unit.removesuffix("s")
    usual = f"{pace.pause:.2f} s and {pace.each:.3f} s a {unit}"
    return f"below {pace.short:.2f} or above {pace.long:.2f} times {usual}"


def scripts(columns: ColumnStatistics, characters: Mapping[str, Counter[str]]) -> Table:
    """Return the scripts of each language, with their rarest characters."""
    rows = []
    for language, counts in characters.items():
        letters: dict[str, Counter[str]] = {}
        for character, count in counts.items():
            letters.setdefault(SCRIPTS[character], Counter())[character] = count
        marks = letters.pop("", Counter())
        clips = columns.count("script", columns.where("language", language))
        name, total = language or "not said", sum(c.total() for c in letters.values())
        for script, found in sorted(letters.items(), key=lambda item: -item[1].total()):
            share, told = f"{found.total() / total:.2%}", _mostly(script, clips)
            rarest = " ".join(c for c, _ in found.most_common()[: -RAREST - 1 : -1])
            rows.append((name, script, rarest, told, f"{len(found):,}", share))
        shown = " ".join(c for c, _ in marks.most_common(MARKS) if c.isprintable() and c != " ")
        rows.append((name, "none", shown, "", f"{len(marks):,}", ""))
    names = ("language", "script", "such as", "clips mostly of it")
    note = (
        "The rarest characters of each script, and the most frequent without one. Scripts are "
        "Unicode's; Han is traditional or simplified by CC-CEDICT. A clip is suspicious if most "
        f"of it is of a script that has less than {RARE:.0%} of its language's letters, or of a "
        "kind of Han that has less of its clips."
    )
    return Table("characters", (*names, "characters", "of letters"), rows, note, texts=4)


def _mostly(script: str, clips: Mapping[str, int]) -> str:
    """Return how many clips are mostly of a script, with the kinds of Han apart."""
    kinds = {
        name: n for name, n in clips.items() if name == script or name.startswith(f"{script}, ")
    }
    return "; ".join(
        f"{n:,} {name.partition(', ')[2]}".strip() for name, n in sorted(kinds.items())
    )


def repeats(columns: ColumnStatistics, texts: Mapping[int, str]) -> Table:
    """Return how many clips of a split say, or sound like, what an earlier one does.

    Args:
        columns: the clips.
        texts: of the clips that most_repeated() names.
    """
    rows = []
    for split in columns.names("split"):
        inside = columns.where("split", split)
        told = (_repeats(columns.numbers(name)[inside]) for name in ("text", "plain"))
        audio = columns.numbers("audio")[inside]
        heard = _repeats(audio[audio != 0]) if audio.any() else "not looked at"
        rows.append((split, *told, heard))
    often = "; ".join(f"{_cut(texts[clip])!r} {n:,} times" for clip, n in most_repeated(columns))
    note = "A plain sentence is one without case, punctuation and spaces."
    note += f" Most often: {often}." if often else ""
    return Table("repeats", ("split", "sentences", "plain sentences", "audio"), rows, note)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _repeats(hashes: NDArray[np.int64]) -> str:
    return f"{len(hashes) - len(np.unique(hashes)):,}"


def most_repeated(columns: ColumnStatistics, most: int = 3) -> list[tuple[int, int]]:
    """Return a clip of each of the most repeated sentences, and how often each is said."""
    _, first, counts = np.unique(columns.numbers("text"), return_index=True, return_counts=True)
    ordered = np.lexsort((first, -counts))[:most]
    return [(int(first[i]), int(counts[i])) for i in ordered if counts[i] > 1]


def formats(clips: Iterable[Utterance], of: int) -> Table:
    """Return the formats of clips by a look at their headers.

    Args:
        clips: that were drawn.
        of: how many there are in all.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for u in clips:
        try:
            with opened(u.audio) as file:
                found[file.format, f"{file.samplerate:,} Hz", f"{file.channels}"] += 1
        except AudioError as error:
            found[error.reason, "", ""] += 1
    looked = found.total()
    rows = [(*key, f"{n:,}", f"{n / looked:.2%}") for key, n in found.most_common()]
    note = f"Of {looked:,} clips drawn from {of:,}." if looked < of else ""
    note = note if looked else "No file was looked at."
    return Table("formats", ("format", "rate", "channels", "clips", "share"), rows, note, texts=1)


def suspicious(found: Iterable[Suspicion], clips: Mapping[int, Utterance]) -> Table:
    """Return how many clips look wrong, by reason, with an example."""
    by_reason: dict[str, list[Suspicion]] = {}
    for each in found:
        by_reason.setdefault(each.reason, []).append(each)
    rows = []
    for reason, group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        told = f"{clips[group[0].clip].id}: {group[0].detail}".removesuffix(": ")
        rows.append((reason, told, f"{len(group):,}"))
    note = "suspicious.jsonl names each with its file." if rows else "Nothing is."
    return Table("suspicious", ("reason", "such as", "clips"), rows, note, texts=2)
