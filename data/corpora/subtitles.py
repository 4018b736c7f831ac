"""Long recordings next to their subtitles: talk.mp3 with talk.srt, talk.vtt or talk.en.srt.

They are in folders train, dev and test, at any depth; or in one folder, which is train. Cues are
joined into clips (data/corpora/subtitle_parser.py). Recordings without subtitles are ignored.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.config import DataConfig
from data.corpora.subtitle_parser import ARROW, Cue, join, parse, screen_overlaps
from data.corpora.subtitle_rules import RULES
from data.corpora.transcript_rules import apply
from data.errors import InputError
from data.labels import UNSPACED
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "*.srt or *.vtt"
SUBTITLE_SUFFIXES = (".srt", ".vtt")
# in order of preference; the scan reports the last few as undecodable
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".mkv", ".webm")
TAG = re.compile(r"(.+)\.([A-Za-z]{2,3})(?:[-_]\w+)*")  # talk.en, talk.zh-TW
ROLLING = re.compile(r"<\d+:[\d:.]+>")  # YouTube's automatic captions
SubtitleFiles = list[tuple[str | None, Path]]  # of one recording: language and path


def matches(path: Path) -> bool:
    """Return whether a folder has subtitles, at any depth."""
    files = path.rglob("*.[sSvV][rRtT][tT]")
    return any(file.suffix.lower() in SUBTITLE_SUFFIXES for file in files)


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the clips of a split by recording, including cues with a fault, to be counted.

    Raises:
        InputError: there are no subtitles, they cannot be read, or several match one recording.
    """
    folder = Path(corpus)
    source = next((candidate for candidate in config.sources if candidate.name == corpus), None)
    translated = source is not None and source.task == "translate"
    wanted = "en" if translated else source.language if source else None
    for recording, subtitle_files in _recordings(folder, split).items():
        tag, file = _select_language(subtitle_files, wanted)
        name = str(file.relative_to(folder))
        text = _text(Path(resolve_inside(folder, name, file)))
        audio = resolve_inside(folder, str(recording.relative_to(folder)), file)
        for group in _groups(text, wanted or tag, config.max_seconds):
            yield Utterance(
                id=f"{folder.name}/{name}:{group[0].line}",
                audio=audio,
                text=_join_lines([cue.text for cue in group], wanted or tag),
                seconds=round(group[-1].end - group[0].start, 6),
                language=None if translated else tag,
                start=group[0].start,
                end=group[-1].end,
                rules=tuple(dict.fromkeys(rule for cue in group for rule in cue.rules)),
                fault=group[0].fault,
            )


def _recordings(folder: Path, split: str) -> dict[Path, SubtitleFiles]:
    """Return the subtitles of each recording of a split; a missing recording has no suffix.

    Raises:
        InputError: the split has no subtitles.
    """
    split_dir = folder / split
    is_flat = split == "train" and not split_dir.is_dir()
    paths = folder.glob("*") if is_flat else split_dir.rglob("*")
    files = sorted(p for p in paths if p.suffix.lower() in SUBTITLE_SUFFIXES and p.name[0] != ".")
    if not files:
        raise InputError(
            f"{folder if is_flat else split_dir}: no subtitles ({DESCRIPTION}); put recordings "
            f"next to their subtitles in folders train, dev and test, or all in {folder} for train"
        )
    audio_files_in = {parent: _audio_files(parent) for parent in {file.parent for file in files}}
    recordings: dict[Path, SubtitleFiles] = {}
    for file in files:
        sounds = audio_files_in[file.parent]
        match = None if file.stem in sounds else TAG.fullmatch(file.stem)
        stem, tag = (match[1], match[2].lower()) if match else (file.stem, None)
        recordings.setdefault(sounds.get(stem, file.with_name(stem)), []).append((tag, file))
    return recordings


def _audio_files(folder: Path) -> dict[str, Path]:
    """Return the recordings in a folder by name, with and without suffix."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES]
    paths.sort(key=lambda path: AUDIO_SUFFIXES.index(path.suffix.lower()), reverse=True)
    return {name: path for path in paths for name in (path.stem, path.name)}


def _select_language(subtitle_files: SubtitleFiles, wanted: str | None) -> tuple[str | None, Path]:
    """Return the one subtitle file in the wanted language.

    Raises:
        InputError: none or several match.
    """
    fitting = [
        candidate
        for candidate in subtitle_files
        if wanted is None or candidate[0] in (None, wanted)
    ]
    if len(fitting) != 1:
        names = ", ".join(path.name for _, path in subtitle_files)
        raise InputError(
            f"{subtitle_files[0][1].parent}: of {names}, {len(fitting)} can be the subtitles in "
            f"{wanted or 'the spoken language'}: keep one, named like talk.en.srt, and set "
            "data.language"
        )
    return fitting[0]


def _text(file: Path) -> str:
    content = file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not in UTF-8 or UTF-16: {error}; convert it, e.g. with iconv -f CP949 -t "
            "UTF-8, or -f GB18030, BIG5, SHIFT_JIS, LATIN1"
        ) from error
    if ARROW not in text:
        raise InputError(f"{file}: has no cue, such as 00:01:02,500 {ARROW} 00:01:04,000")
    if ROLLING.search(text):
        raise InputError(
            f"{file}: has times between words, as automatic captions do, which repeat each line: "
            "use subtitles of whole cues"
        )
    return text


def _groups(text: str, language: str | None, limit: float) -> list[list[Cue]]:
    """Return groups of cues, one per clip; cues with a fault are alone."""
    cues = [_clean_cue(cue, language) for cue in parse(text)]
    usable = screen_overlaps([cue for cue in cues if not cue.fault])
    return [[cue] for cue in cues if cue.fault] + list(join(usable, limit))


def _clean_cue(cue: Cue, language: str | None) -> Cue:
    """Apply the text rules to a cue; a cue without speech, such as [Music], gets a fault."""
    text, rules = apply(cue.text, RULES)
    text = _join_lines(
        [" ".join(line.split()) for line in text.split("\n") if line.strip()], language
    )
    if not cue.fault and not text:
        return cue._replace(fault="cue without words")
    return cue._replace(text=text, rules=rules)


def _join_lines(parts: Sequence[str], language: str | None) -> str:
    """Join lines with a space, or without one in languages written without spaces."""
    text = ""
    for part in parts:
        meets = language in UNSPACED and not (text[-1:].isascii() or part[:1].isascii())
        text += part if meets or not text else f" {part}"
    return text
