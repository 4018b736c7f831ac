"""What is removed from the text of subtitles: markup, [Applause], ♪ and >> NAME:."""

import html
import re

from data.corpora.transcript_rules import Rule

MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <00:01.000>, {\an8}
SOUNDS = re.compile(r"\[[^][]*\]|【[^】]*】|［[^］]*］|[♪♫]")
ASIDES = re.compile(r"\([^()]*\)|（[^（）]*）")
CHANGE = re.compile(r"^[ \t]*>>+ *((?:\S+ ){0,2}\S+:(?=\s|$))?", re.MULTILINE)  # >> NAME:


def _unnamed(text: str) -> str:
    """Remove >> at the beginning of lines, and a name in capitals after it; keep >> He said:."""

    def without_name(match: re.Match[str]) -> str:
        name = match[1] or ""
        return "" if name == name.upper() else name

    return CHANGE.sub(without_name, text)


RULES = (
    Rule("markup removed", lambda text: MARKUP.sub("", text)),
    Rule("entities replaced", html.unescape),
    Rule("sounds in brackets removed", lambda text: SOUNDS.sub("", text)),
    # Whisper's normalizers remove these from references too
    Rule("words in parentheses removed", lambda text: ASIDES.sub("", text)),
    Rule("marks of speakers removed", _unnamed),
)
