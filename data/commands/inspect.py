"""`python -m data inspect`: a corpus in the terminal, on a page, and in lists of what is wrong."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from data.atomic_files import write_jsonl, write_text
from data.audio.source import AudioError
from data.commands import inspect_tables as findings
from data.commands.inspect_outliers import Suspicion, paces_of, suspicions
from data.commands.inspect_survey import InspectConfig, Survey
from data.corpora.common_voice import read_once
from data.manifest import scan_cache
from data.pages.audio_uri import data_uri
from data.pages.page import render, svg_of
from data.pages.tables import Table, draw_lengths, length_counts, plot_lengths
from data.paths import name_of, refuse_within
from data.utterance import Utterance

RUNS = Path("runs")
HEADERS = 10_000  # clips whose header is read for the formats: what 1 in 1,000 has is among them
DRAWN = 12  # clips to be heard on the page
WRONG = 5  # suspicious ones beside them, of each reason
SHOWN = 500  # characters of a text on the page


class ClipToShow(NamedTuple):
    """A clip on the page."""

    clip: Utterance
    why: str  # it is here
    sound: str  # a data URI; empty where it cannot be played
    told: str  # why it cannot


@read_once()
def inspect(config: InspectConfig) -> Path:
    """Go through a corpus, show what is found and write it; return the page.

    Raises:
        InputError: a corpus or a split is missing, or the page would lie in a corpus.
    """
    folder = Path(config.out) if config.out else RUNS / "inspect" / name_of(config.corpus)
    refuse_within(folder, (*config.corpus, *config.data.audio_root))
    survey = Survey(config, scan_cache(folder if config.out else RUNS, config.data))
    drops = survey.read()
    first = list(islice(drops, 1))  # a corpus that is not there leaves no folder
    write_jsonl(folder / "drops.jsonl", map(asdict, chain(first, drops)))
    paces = paces_of(survey.columns)
    wrong = list(suspicions(survey.columns, paces, survey.characters))
    drawn, headers = _drawn(survey)
    often = [clip for clip, _ in findings.most_repeated(survey.columns)]
    clips = survey.look_again({*drawn, *headers, *often, *(each.clip for each in wrong)})
    write_jsonl(folder / "suspicious.jsonl", (_row(each, clips[each.clip]) for each in wrong))
    tables = [
        findings.overview(survey),
        findings.left_out(survey),
        findings.suspicious(wrong, clips),
        findings.speech_rates(survey.columns, paces),
        findings.scripts(survey.columns, survey.characters),
        findings.formats([clips[clip] for clip in headers], len(survey.columns)),
        findings.repeats(survey.columns, {clip: clips[clip].text for clip in often}),
    ]
    counts = length_counts(survey.columns.numbers("seconds"))
    page = folder / "inspection.html"
    heard = [] if config.scan == "none" else list(_heard(drawn, wrong, clips))
    write_text(page, _page(survey, counts, tables, heard))
    _show(counts, tables, page)
    return page


def _drawn(survey: Survey) -> tuple[list[int], list[int]]:
    """Draw clips to be heard, and clips whose headers are read; none where no file is looked at."""
    if survey.config.scan == "none":
        return [], []
    clips = range(len(survey.columns))
    draw = random.Random(survey.config.seed)
    heard = draw.sample(clips, min(DRAWN, len(clips)))
    return sorted(heard), sorted(draw.sample(clips, min(HEADERS, len(clips))))


def _row(each: Suspicion, u: Utterance) -> dict[str, Any]:
    told = {"reason": each.reason, "detail": each.detail}
    return {"id": u.id, **told, "seconds": u.seconds, "text": u.text, "audio": u.audio}


def _heard(
    drawn: Sequence[int], wrong: Iterable[Suspicion], clips: Mapping[int, Utterance]
) -> Iterator[ClipToShow]:
    """Yield what the page lets hear: clips that were drawn, and the first of each suspicion."""
    for clip in drawn:
        yield _playable(clips[clip], "drawn")
    shown: Counter[str] = Counter()
    for each in wrong:
        shown[each.reason] += 1
        if shown[each.reason] <= WRONG:
            yield _playable(clips[each.clip], f"{each.reason}: {each.detail}".removesuffix(": "))


def _playable(clip: Utterance, why: str) -> ClipToShow:
    try:
        return ClipToShow(clip, why, data_uri(clip), "")
    except AudioError as error:
        return ClipToShow(clip, why, "", f"{error.reason}: {error.detail}")


def _page(survey: Survey, counts: list[int], tables: list[Table], heard: list[ClipToShow]) -> str:
    return render(
        Path(__file__).with_name("inspection.html.j2"),
        name=name_of(survey.config.corpus),
        corpora=", ".join(survey.config.corpus),
        lengths=svg_of(plot_lengths(counts)),
        tables=tables,
        heard=heard,
        most=SHOWN,
    )


def _show(counts: list[int], tables: list[Table], page: Path) -> None:
    console = Console(highlight=False)
    first, *others = (table.drawn() for table in tables)
    console.print(first, draw_lengths(counts), "", *others, sep="\n")
    console.print(f"to be heard: {page}", soft_wrap=True, markup=False)
