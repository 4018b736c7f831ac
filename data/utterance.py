"""An utterance of a corpus, and why one is left out."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(kw_only=True, slots=True)
class Utterance:
    """One spoken sentence: where its audio lies and what is said in it.

    Not frozen: it is filled in on its way to the manifest, where a copy would cost 4 microseconds,
    of each of millions.
    """

    id: str  # unique within a split
    # an absolute path; a row of a dataset: hub:{"name": …, "row": …}; or a file in an archive:
    audio: str  # tar:{"path": …, "name": …, "offset": …, "size": …}
    text: str
    seconds: float = 0.0  # 0 until the scan knows
    language: str | None = None  # Whisper's code: en, zh, …
    task: str = "transcribe"  # or translate: the text is English
    speaker: str | None = None
    corpus: str = ""  # as data.corpus names it
    start: float = 0.0  # seconds into the file
    end: float | None = None  # seconds into the file; None: to its end
    tokens: int = 0  # label length, special tokens included
    prompt: str = ""  # what was said before it in the same recording
    prompt_tokens: int = 0  # its length
    rules: tuple[str, ...] = ()  # that changed its transcript, by name
    age: str | None = None  # of the speaker, as the corpus says it: twenties
    gender: str | None = None  # as the corpus says it
    accent: str | None = None  # as the corpus says it
    fault: str = ""  # why its reader says that it cannot be used: the reason of its drop

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: v for name, default in FIELDS if (v := getattr(self, name)) != default}


FIELDS = [(field.name, field.default) for field in fields(Utterance)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """An utterance that is not trained on or scored, and why."""

    split: str
    id: str
    audio: str
    reason: str  # one of a few words: counted
    detail: str = ""  # this case's figures or message
