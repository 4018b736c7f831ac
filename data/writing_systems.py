"""What a text is made of: its script, its letters, and what only damage leaves in it."""

import re
import unicodedata
from collections import Counter

import hanzidentifier
from fontTools.unicodedata import script, script_name

NO_SCRIPT = {"Zyyy", "Zinh", "Zzzz"}  # common: 1 ! 。; inherited: accents; unknown
KANA = {"Hira", "Kana"}  # one text uses both
HAN = {
    hanzidentifier.TRADITIONAL: "Han, traditional",
    hanzidentifier.SIMPLIFIED: "Han, simplified",
    hanzidentifier.MIXED: "Han, mixed",
}
EITHER = "Han, either"  # all of its characters are used in both
OWN_FORMS = {"ja", "ko"}  # kanji and hanja are neither traditional nor simplified
ASCII_LETTER = re.compile("[A-Za-z]")
# control characters, what could not be decoded, and characters of some font alone
DAMAGE = re.compile("[\0-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff]")


class _Scripts(dict[str, str]):
    """The script of each character that was asked for; empty where it has none."""

    def __missing__(self, character: str) -> str:
        code = script(character)
        name = "Kana" if code in KANA else "" if code in NO_SCRIPT else script_name(code)
        self[character] = name
        return name


class _Letters(dict[int, int | None]):
    """For str.translate(): what is neither letter, mark nor number goes."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


SCRIPTS = _Scripts()
LETTERS = _Letters()


def script_of(text: str, language: str | None) -> str:
    """Return the script of most of a text's letters, by Unicode's name; empty without letters.

    Hiragana and Katakana are Kana. Han is traditional or simplified by the dictionary CC-CEDICT
    (hanzidentifier, 0.1 MB): 后, 台 or 里 are used in both there, and settle nothing.
    """
    if text.isascii():  # saves 3 microseconds, of each of millions
        return "Latin" if ASCII_LETTER.search(text) else ""
    counts = Counter(map(SCRIPTS.__getitem__, text))
    del counts[""]
    if not counts:
        return ""
    most = max(counts, key=counts.__getitem__)
    if most != "Han" or language in OWN_FORMS:
        return most
    return HAN.get(hanzidentifier.identify(text), EITHER)


def plain(text: str) -> str:
    """Return a text's letters, marks and numbers, without case and width: what is said of it."""
    return unicodedata.normalize("NFKC", text).casefold().translate(LETTERS)


def is_damaged(text: str) -> bool:
    """Tell whether a text holds what is no text, or is UTF-8 that was read as Windows-1252: Ã©."""
    if DAMAGE.search(text):
        return True
    if text.isascii():
        return False
    try:
        text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return False
    return True
