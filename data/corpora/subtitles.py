"""Long recordings beside their subtitles: talk.mp3 with talk.srt, talk.vtt or talk.en.srt.

In folders train, dev and test, at any depth; or all in one folder, which is train then. Cues are
joined into clips: data/corpora/subtitle_parser.py. A recording without subtitles is no part of
the corpus.
"""

import codecs
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.config import DataConfig
from data.corpora.subtitle_parser import ARROW, Cue, join, parse, screen_overlaps
from data.corpora.text_rules import Rule, apply
from data.errors import InputError
from data.labels import UNSPACED
from data.paths import inside
from data.utterance import Utterance

LOOKS = "*.srt or *.vtt"
SUBTITLES = (".srt", ".vtt")
# the first that is there; of the last few the scan says that they cannot be decoded
SOUND = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".mkv", ".webm")
TAG = re.compile(r"(.+)\.([A-Za-z]{2,3})(?:[-_]\w+)*")  # talk.en, talk.zh-TW
ROLLING = re.compile(r"<\d+:[\d:.]+>")  # YouTube's automatic captions
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <00:01.000>, {\an8}
SOUNDS = re.compile(r"\[[^][]*\]|【[^】]*】|［[^］]*］|[♪♫]")
ASIDES = re.compile(r"\([^()]*\)|（[^（）]*）")
CHANGE = re.compile(r"^[ \t]*>>+ *((?:\S+ ){0,2}\S+:(?=\s|$))?", re.MULTILINE)  # >> NAME:


def _unnamed(text: str) -> str:
    """Take off >> at the beginning of lines, and a name behind it; >> He said: is speech."""

    def kept(found: re.Match[str]) -> str:
        name = found[1] or ""
        return "" if name == name.upper() else name

    return CHANGE.sub(kept, text)


RULES = (
    Rule("markup removed", lambda text: MARKUP.sub("", text)),
    Rule("entities replaced", html.unescape),
    Rule("sounds in brackets removed", lambda text: SOUNDS.sub("", text)),
    # Whisper's normalisers take these out of references too
    Rule("words in parentheses removed", lambda text: ASIDES.sub("", text)),
    Rule("marks of speakers removed", _unnamed),
)
Found = list[tuple[str | None, Path]]  # subtitles of one recording: their language, their file


def matches(path: Path) -> bool:
    """Tell whether a folder holds subtitles, at any depth."""
    alike = path.rglob("*.[sSvV][rRtT][tT]")
    return any(each.suffix.lower() in SUBTITLES for each in alike)


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the clips of a split, recording by recording; cues with a fault too, to be counted.

    Raises:
        InputError: there are no subtitles, they cannot be read, or several fit one recording.
    """
    folder = Path(corpus)
    source = next((each for each in config.sources if each.name == corpus), None)
    translated = source is not None and source.task == "translate"
    wanted = "en" if translated else source.language if source else None
    for recording, found in _recordings(folder, split).items():
        tag, file = _chosen(found, wanted)
        name = str(file.relative_to(folder))
        text = _text(Path(inside(folder, name, file)))
        audio = inside(folder, str(recording.relative_to(folder)), file)
        for group in _groups(text, wanted or tag, config.max_seconds):
            yield Utterance(
                id=f"{folder.name}/{name}:{group[0].line}",
                audio=audio,
                text=_joined([cue.text for cue in group], wanted or tag),
                seconds=round(group[-1].end - group[0].start, 6),
                language=None if translated else tag,
                start=group[0].start,
                end=group[-1].end,
                rules=tuple(dict.fromkeys(rule for cue in group for rule in cue.rules)),
                fault=group[0].fault,
            )


def _recordings(folder: Path, split: str) -> dict[Path, Found]:
    """Return the recordings of a split with their subtitles; one that is not there has no suffix.

    Raises:
        InputError: the split has no subtitles.
    """
    place = folder / split
    alone = split == "train" and not place.is_dir()
    listed = folder.glob("*") if alone else place.rglob("*")
    files = sorted(p for p in listed if p.suffix.lower() in SUBTITLES and p.name[0] != ".")
    if not files:
        raise InputError(
            f"{folder if alone else place}: no subtitles, {LOOKS}; recordings lie beside theirs in "
            f"folders train, dev and test, or all in {folder}, for train"
        )
    sounds_in = {parent: _sounds(parent) for parent in {file.parent for file in files}}
    recordings: dict[Path, Found] = {}
    for file in files:
        sounds = sounds_in[file.parent]
        match = None if file.stem in sounds else TAG.fullmatch(file.stem)
        stem, tag = (match[1], match[2].lower()) if match else (file.stem, None)
        recordings.setdefault(sounds.get(stem, file.with_name(stem)), []).append((tag, file))
    return recordings


def _sounds(folder: Path) -> dict[str, Path]:
    """Return the recordings in a folder, with their suffix and without."""
    listed = [path for path in folder.iterdir() if path.suffix.lower() in SOUND]
    listed.sort(key=lambda path: SOUND.index(path.suffix.lower()), reverse=True)
    return {name: path for path in listed for name in (path.stem, path.name)}


def _chosen(found: Found, wanted: str | None) -> tuple[str | None, Path]:
    """Return the one file of subtitles that is in the language that is wanted.

    Raises:
        InputError: none or several are.
    """
    fitting = [each for each in found if wanted is None or each[0] in (None, wanted)]
    if len(fitting) != 1:
        names = ", ".join(path.name for _, path in found)
        raise InputError(
            f"{found[0][1].parent}: of {names}, {len(fitting)} can be the subtitles in "
            f"{wanted or 'the language that is spoken'}: keep one, named as talk.en.srt is, and "
            "set data.language"
        )
    return fitting[0]


def _text(file: Path) -> str:
    content = file.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not in UTF-8 or UTF-16: {error}; convert it, as in iconv -f CP949 -t UTF-8, "
            "or -f GB18030, BIG5, SHIFT_JIS, LATIN1"
        ) from error
    if ARROW not in text:
        raise InputError(f"{file}: holds no cue, such as 00:01:02,500 {ARROW} 00:01:04,000")
    if ROLLING.search(text):
        raise InputError(
            f"{file}: has times between words, as captions that a machine made; their lines come "
            "twice: take subtitles of whole cues"
        )
    return text


def _groups(text: str, language: str | None, limit: float) -> list[list[Cue]]:
    """Return cues that make a clip together, and alone those that have a fault."""
    cues = [_cleaned(cue, language) for cue in parse(text)]
    sound = screen_overlaps([cue for cue in cues if not cue.fault])
    return [[cue] for cue in cues if cue.fault] + list(join(sound, limit))


def _cleaned(cue: Cue, language: str | None) -> Cue:
    """Apply the rules to a cue; what nobody says, such as [Music], is a fault."""
    text, rules = apply(cue.text, RULES)
    text = _joined([" ".join(line.split()) for line in text.split("\n") if line.strip()], language)
    if not cue.fault and not text:
        return cue._replace(fault="cue without words")
    return cue._replace(text=text, rules=rules)


def _joined(parts: Sequence[str], language: str | None) -> str:
    """Join lines with a space, unless they meet in a script that has none."""
    text = ""
    for part in parts:
        meets = language in UNSPACED and not (text[-1:].isascii() or part[:1].isascii())
        text += part if meets or not text else f" {part}"
    return text
