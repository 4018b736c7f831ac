"""The tables of `inspect`, made from a Survey."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from data.audio.open_audio import AudioError, open_audio
from data.commands.inspect_columns import ColumnStatistics
from data.commands.inspect_outliers import (
    DEVIATIONS,
    FACTOR,
    MIN_CLIPS,
    RARE,
    SpeakingRate,
    Suspicion,
)
from data.commands.inspect_survey import Survey
from data.pages.tables import Table
from data.utterance import Utterance
from data.writing_systems import SCRIPTS

PERCENTILES = (1, 50, 99)
RAREST = 12  # characters of a script that are shown
SHOWN = 100  # characters of a repeated sentence
MARKS = 30  # characters without a script that are shown


def overview(survey: Survey) -> Table:
    """Return clips, hours and speakers, by split and in total."""
    columns = survey.columns
    kept, seconds = columns.numbers("kept") == 1, columns.numbers("seconds")
    rows = []
    for split in filter(survey.listed.__contains__, survey.splits):
        inside = kept & columns.where("split", split)
        rows.append((split, *_counts(columns, survey.listed[split], inside, seconds)))
    if len(rows) > 1:
        rows.append(("all", *_counts(columns, survey.listed.total(), kept, seconds)))
    absent = (f"{split} does not exist ({error})." for split, error in survey.absent.items())
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
    """Return the drops by split and reason, with an example."""
    rows = []
    for (split, reason), count in survey.left_out.most_common():
        example = survey.examples[split, reason]
        text = f"{example.id}: {example.detail}" if example.detail else example.id
        rows.append((split, reason, text, f"{count:,}"))
    note = "All are listed in drops.jsonl." if rows else "None."
    return Table("left out of training", ("split", "reason", "such as", "clips"), rows, note, 3)


def speech_rates(columns: ColumnStatistics, rates: list[SpeakingRate]) -> Table:
    """Return the rate of speech of each language, and when a clip is suspicious."""
    rows = []
    for language in columns.names("language"):
        inside = columns.where("language", language) & (columns.numbers("seconds") > 0)
        for unit in ("letters", "tokens"):
            lengths = columns.numbers(unit)[inside]
            if not lengths.any():
                continue
            spread = np.percentile(lengths / columns.numbers("seconds")[inside], PERCENTILES)
            usual = [_usual_rate(r) for r in rates if (r.language, r.unit) == (language, unit)]
            figures = (f"{rate:.1f}" for rate in spread)
            rows.append((language or "unknown", unit, *(usual or [""]), *figures))
    names = ("language", "a second", "suspicious", *(f"{p} %" for p in PERCENTILES))
    note = (
        "Letters are letters, marks and numbers; seconds include silence. Clips are suspicious "
        f"beyond {FACTOR:g} times the usual duration, or {DEVIATIONS:g} robust standard deviations "
        f"if that is more; languages with fewer than {MIN_CLIPS} clips are not checked."
    )
    return Table("rate of speech", names, rows, note, texts=3)


def _usual_rate(rate: SpeakingRate) -> str:
    unit = rate.unit.removesuffix("s")
    usual = f"{rate.pause:.2f} s and {rate.per_unit:.3f} s a {unit}"
    return f"below {rate.short:.2f} or above {rate.long:.2f} times {usual}"


def scripts(columns: ColumnStatistics, characters: Mapping[str, Counter[str]]) -> Table:
    """Return the scripts of each language, with their rarest characters."""
    rows = []
    for language, counts in characters.items():
        letters: dict[str, Counter[str]] = {}
        for character, count in counts.items():
            letters.setdefault(SCRIPTS[character], Counter())[character] = count
        marks = letters.pop("", Counter())
        clips = columns.count("script", columns.where("language", language))
        name, total = language or "unknown", sum(c.total() for c in letters.values())
        for script, counter in sorted(letters.items(), key=lambda item: -item[1].total()):
            share, mostly = f"{counter.total() / total:.2%}", _clips_by_kind(script, clips)
            rarest = " ".join(c for c, _ in counter.most_common()[: -RAREST - 1 : -1])
            rows.append((name, script, rarest, mostly, f"{len(counter):,}", share))
        shown = " ".join(c for c, _ in marks.most_common(MARKS) if c.isprintable() and c != " ")
        rows.append((name, "none", shown, "", f"{len(marks):,}", ""))
    names = ("language", "script", "such as", "clips mostly of it")
    note = (
        "The rarest characters of each script, and the most frequent ones without a script. "
        "Scripts are Unicode's; Han is traditional or simplified by CC-CEDICT. A clip is "
        f"suspicious if it is mostly in a script with less than {RARE:.0%} of its language's "
        "letters, or in a kind of Han with less than that of its clips."
    )
    return Table("characters", (*names, "characters", "of letters"), rows, note, texts=4)


def _clips_by_kind(script: str, clips: Mapping[str, int]) -> str:
    """Return the number of clips that are mostly in a script, separately for kinds of Han."""
    kinds = {
        name: n for name, n in clips.items() if name == script or name.startswith(f"{script}, ")
    }
    return "; ".join(
        f"{n:,} {name.partition(', ')[2]}".strip() for name, n in sorted(kinds.items())
    )


def repeats(columns: ColumnStatistics, texts: Mapping[int, str]) -> Table:
    """Return how many clips of each split repeat an earlier one's sentence or audio.

    Args:
        columns: the clips.
        texts: of the clips that most_repeated() returns.
    """
    rows = []
    for split in columns.names("split"):
        inside = columns.where("split", split)
        text_repeats = (_repeats(columns.numbers(name)[inside]) for name in ("text", "plain"))
        audio = columns.numbers("audio")[inside]
        audio_repeats = _repeats(audio[audio != 0]) if audio.any() else "not checked"
        rows.append((split, *text_repeats, audio_repeats))
    often = "; ".join(f"{_cut(texts[clip])!r} {n:,} times" for clip, n in most_repeated(columns))
    note = "Plain sentences are without case, punctuation and spaces."
    note += f" Most often: {often}." if often else ""
    return Table("repeats", ("split", "sentences", "plain sentences", "audio"), rows, note)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _repeats(hashes: NDArray[np.int64]) -> str:
    return f"{len(hashes) - len(np.unique(hashes)):,}"


def most_repeated(columns: ColumnStatistics, most: int = 3) -> list[tuple[int, int]]:
    """Return a clip of each of the most repeated sentences, and its number of clips."""
    _, first, counts = np.unique(columns.numbers("text"), return_index=True, return_counts=True)
    ordered = np.lexsort((first, -counts))[:most]
    return [(int(first[i]), int(counts[i])) for i in ordered if counts[i] > 1]


def formats(clips: Iterable[Utterance], of: int) -> Table:
    """Return the audio formats of clips, from their headers.

    Args:
        clips: the drawn clips.
        of: number of clips in total.
    """
    by_format: Counter[tuple[str, str, str]] = Counter()
    for u in clips:
        try:
            with open_audio(u.audio) as file:
                by_format[file.format, f"{file.samplerate:,} Hz", f"{file.channels}"] += 1
        except AudioError as error:
            by_format[error.reason, "", ""] += 1
    total = by_format.total()
    rows = [(*key, f"{n:,}", f"{n / total:.2%}") for key, n in by_format.most_common()]
    note = f"Of {total:,} clips drawn from {of:,}." if total < of else ""
    note = note if total else "No file was read."
    return Table("formats", ("format", "rate", "channels", "clips", "share"), rows, note, texts=1)


def suspicious(suspicions: Iterable[Suspicion], clips: Mapping[int, Utterance]) -> Table:
    """Return the number of suspicious clips by reason, with an example."""
    by_reason: dict[str, list[Suspicion]] = {}
    for suspicion in suspicions:
        by_reason.setdefault(suspicion.reason, []).append(suspicion)
    rows = []
    for reason, group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        example = f"{clips[group[0].clip].id}: {group[0].detail}".removesuffix(": ")
        rows.append((reason, example, f"{len(group):,}"))
    note = "All are listed in suspicious.jsonl." if rows else "None."
    return Table("suspicious", ("reason", "such as", "clips"), rows, note, texts=2)
