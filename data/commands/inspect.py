"""`python -m data inspect`: statistics and suspicious clips, in the terminal and as HTML."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from data.atomic_files import write_jsonl, write_text
from data.audio.open_audio import AudioError
from data.commands import inspect_tables as findings
from data.commands.inspect_outliers import Suspicion, find_suspicious, speaking_rates
from data.commands.inspect_survey import InspectConfig, Survey
from data.corpora.common_voice import cache_durations
from data.manifest import scan_cache_path
from data.pages.audio_uri import data_uri
from data.pages.page import render, to_svg
from data.pages.tables import Table, draw_lengths, length_counts, plot_lengths
from data.paths import folder_name, refuse_within
from data.utterance import Utterance

RUNS = Path("runs")
HEADER_SAMPLES = 10_000  # clips whose header is read; enough to find a format of 1 in 1,000
AUDIO_SAMPLES = 12  # randomly drawn clips with audio on the page
SUSPICIOUS_PER_REASON = 5  # suspicious clips with audio on the page
MAX_TEXT = 500  # characters of a transcript on the page


class ClipToShow(NamedTuple):
    """A clip with audio on the page."""

    clip: Utterance
    reason: str  # why it is shown
    audio: str  # a data URI; empty if it cannot be decoded
    error: str  # why it cannot be decoded


@cache_durations()
def inspect(config: InspectConfig) -> Path:
    """Inspect a corpus; print tables, and write lists and an HTML page; return the page's path.

    Raises:
        InputError: a corpus or a split is missing, or the output folder is in a corpus.
    """
    folder = Path(config.out) if config.out else RUNS / "inspect" / folder_name(config.corpus)
    refuse_within(folder, (*config.corpus, *config.data.audio_root))
    survey = Survey(config, scan_cache_path(folder if config.out else RUNS, config.data))
    drops = survey.read()
    first_drop = list(islice(drops, 1))  # fails for a missing corpus, before the folder is created
    write_jsonl(folder / "drops.jsonl", map(asdict, chain(first_drop, drops)))
    rates = speaking_rates(survey.columns)
    suspicious = list(find_suspicious(survey.columns, rates, survey.characters))
    sampled, headers = _sample_clips(survey)
    repeated = [clip for clip, _ in findings.most_repeated(survey.columns)]
    clips = survey.read_again({*sampled, *headers, *repeated, *(s.clip for s in suspicious)})
    write_jsonl(folder / "suspicious.jsonl", (_suspicion_row(s, clips[s.clip]) for s in suspicious))
    tables = [
        findings.overview(survey),
        findings.left_out(survey),
        findings.suspicious(suspicious, clips),
        findings.speech_rates(survey.columns, rates),
        findings.scripts(survey.columns, survey.characters),
        findings.formats([clips[clip] for clip in headers], len(survey.columns)),
        findings.repeats(survey.columns, {clip: clips[clip].text for clip in repeated}),
    ]
    counts = length_counts(survey.columns.numbers("seconds"))
    page = folder / "inspection.html"
    shown_clips = [] if config.scan == "none" else list(_clips_to_show(sampled, suspicious, clips))
    write_text(page, _page(survey, counts, tables, shown_clips))
    _show(counts, tables, page)
    return page


def _sample_clips(survey: Survey) -> tuple[list[int], list[int]]:
    """Draw clips to play, and clips whose headers are read; none if check is none."""
    if survey.config.scan == "none":
        return [], []
    clips = range(len(survey.columns))
    rng = random.Random(survey.config.seed)
    to_play = rng.sample(clips, min(AUDIO_SAMPLES, len(clips)))
    return sorted(to_play), sorted(rng.sample(clips, min(HEADER_SAMPLES, len(clips))))


def _suspicion_row(suspicion: Suspicion, u: Utterance) -> dict[str, Any]:
    fields = {"reason": suspicion.reason, "detail": suspicion.detail}
    return {"id": u.id, **fields, "seconds": u.seconds, "text": u.text, "audio": u.audio}


def _clips_to_show(
    sampled: Sequence[int], suspicious: Iterable[Suspicion], clips: Mapping[int, Utterance]
) -> Iterator[ClipToShow]:
    """Yield the clips with audio on the page: drawn ones, and the first of each reason."""
    for clip in sampled:
        yield _clip_to_show(clips[clip], "drawn")
    shown: Counter[str] = Counter()
    for suspicion in suspicious:
        shown[suspicion.reason] += 1
        if shown[suspicion.reason] <= SUSPICIOUS_PER_REASON:
            reason = f"{suspicion.reason}: {suspicion.detail}".removesuffix(": ")
            yield _clip_to_show(clips[suspicion.clip], reason)


def _clip_to_show(clip: Utterance, reason: str) -> ClipToShow:
    try:
        return ClipToShow(clip, reason, data_uri(clip), "")
    except AudioError as error:
        return ClipToShow(clip, reason, "", f"{error.reason}: {error.detail}")


def _page(
    survey: Survey, counts: list[int], tables: list[Table], shown_clips: list[ClipToShow]
) -> str:
    return render(
        Path(__file__).with_name("inspection.html.j2"),
        name=folder_name(survey.config.corpus),
        corpora=", ".join(survey.config.corpus),
        lengths=to_svg(plot_lengths(counts)),
        tables=tables,
        shown_clips=shown_clips,
        max_text=MAX_TEXT,
    )


def _show(counts: list[int], tables: list[Table], page: Path) -> None:
    console = Console(highlight=False)
    first, *others = (table.to_rich() for table in tables)
    console.print(first, draw_lengths(counts), "", *others, sep="\n")
    console.print(f"page with audio: {page}", soft_wrap=True, markup=False)
