"""Utterance: one clip of a corpus with its transcript; Drop: why one is left out."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(kw_only=True, slots=True)
class Utterance:
    """One clip: the location of its audio, its transcript and its metadata.

    Not frozen, since its fields are filled in on the way to the manifest: a copy would cost 4
    microseconds for each of millions.
    """

    id: str  # unique within a split
    # an absolute path; or a dataset's row, hub:{"name": …, "row": …}; or a file in an archive,
    audio: str  # tar:{"path": …, "name": …, "offset": …, "size": …}
    text: str
    seconds: float = 0.0  # duration; 0 until the scan has measured it
    language: str | None = None  # Whisper's code: en, zh, …
    task: str = "transcribe"  # or translate, with an English text
    speaker: str | None = None
    corpus: str = ""  # its value in data.corpus
    start: float = 0.0  # seconds into the file
    end: float | None = None  # seconds into the file; None: to its end
    tokens: int = 0  # label length, special tokens included
    prompt: str = ""  # the preceding transcript in the same recording
    prompt_tokens: int = 0  # length of the prompt
    rules: tuple[str, ...] = ()  # names of the text rules that changed its transcript
    age: str | None = None  # of the speaker, in the corpus's words: twenties
    gender: str | None = None  # in the corpus's words
    accent: str | None = None  # in the corpus's words
    fault: str = ""  # why its reader found it unusable: the reason of its drop

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return {name: v for name, default in FIELDS if (v := getattr(self, name)) != default}


FIELDS = [(field.name, field.default) for field in fields(Utterance)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """An utterance that is left out of training or evaluation, and why."""

    split: str
    id: str
    audio: str
    reason: str  # one of a fixed set, so that drops can be counted by it
    detail: str = ""  # figures or message of this case
