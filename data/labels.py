"""Text to token ids: one start token, the prefix, the text, the end token."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from data.errors import InputError

START = "<|startoftranscript|>"
NO_TIMESTAMPS = "<|notimestamps|>"
END = "<|endoftext|>"
PREVIOUS = "<|startofprev|>"
PROMPT_TOKENS = 223  # of what was said before, at most: the last ones, as in Whisper's own decoding
TIME_STEP = 0.02  # seconds from one timestamp token to the next, which follow <|notimestamps|>
LAST_TIME = 1500  # steps: 30 s
MAX_TOKENS = 448  # positions of the decoder, in every published model
TOKENIZED = 4_000  # texts at a time
UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km"})  # no spaces between words


class LabelEncoder:
    """Whisper's targets: <|startoftranscript|><|zh|><|transcribe|><|notimestamps|>…<|endoftext|>.

    The start token is Whisper's decoder_start_token, not its bos_token, which is <|endoftext|>: the
    widely copied collator compares with bos, never cuts, and trains on two start tokens
    (huggingface/audio-transformers-course#85).
    """

    def __init__(
        self, tokenizer: Any, *, max_tokens: int, multilingual: bool, vocabulary_size: int = 0
    ) -> None:
        """Wrap a Whisper tokenizer.

        Args:
            tokenizer: a transformers WhisperTokenizer.
            max_tokens: positions that the decoder has, 448 in every published model.
            multilingual: whether the model was trained with language tokens; the English-only
                ones have them in their vocabulary all the same.
            vocabulary_size: classes that the model has; those of times have no text in some
                tokenizers.
        """
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.multilingual = multilingual
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.start, self.end = self._id(START), self._id(END)
        self.knows_times = self._id(NO_TIMESTAMPS) + 1 + LAST_TIME < vocabulary_size

    def prefix(self, language: str, task: str = "transcribe") -> list[int]:
        """Return the tokens before the text.

        Args:
            language: Whisper's code.
            task: transcribe or translate.

        Raises:
            InputError: the model does not know the language.
        """
        if not self.multilingual:
            if language != "en":
                raise InputError(
                    f"data.language is {language!r}, but the model is English-only: "
                    "take a multilingual model, or set data.language=en"
                )
            return [self.start, self._id(NO_TIMESTAMPS)]
        if f"<|{language}|>" not in self.vocabulary:
            raise InputError(
                f"language {language!r} is unknown to the model: "
                "set data.language to one of Whisper's codes, such as en, zh, yue or ko"
            )
        return [self._id(t) for t in (START, f"<|{language}|>", f"<|{task}|>", NO_TIMESTAMPS)]

    def encode(self, text: str, language: str, task: str = "transcribe") -> list[int]:
        """Return the whole sequence, start and end token included.

        Raises:
            InputError: the model does not know the language.
        """
        return self.wrap(self.pieces([text], language), language, task)

    def pieces(self, texts: Sequence[str], language: str) -> list[list[int]]:
        """Return the ids of texts that are said one after another, without special tokens."""
        space = "" if language in UNSPACED else " "
        spaced = [*texts[:1], *(space + text for text in texts[1:])]
        return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in spaced]

    def wrap(
        self,
        pieces: Sequence[Sequence[int]],
        language: str,
        task: str = "transcribe",
        times: Sequence[tuple[float, float]] = (),
    ) -> list[int]:
        """Put the prefix before pieces, and the end token behind them.

        Args:
            pieces: ids of texts that are said one after another.
            language: Whisper's code.
            task: transcribe or translate.
            times: where each piece begins and ends, in seconds; none: without timestamps.

        Raises:
            InputError: the model does not know the language.
        """
        prefix = self.prefix(language, task)
        if times:
            prefix.pop()  # <|notimestamps|>
            pieces = [
                [self.time(start), *piece, self.time(end)]
                for piece, (start, end) in zip(pieces, times, strict=True)
            ]
        ids = [*prefix, *chain(*pieces), self.end]
        assert ids.count(self.start) == 1, ids
        return ids

    def time(self, seconds: float) -> int:
        """Return the token of a time in a window, to the nearest 0.02 s."""
        return self._id(NO_TIMESTAMPS) + 1 + min(LAST_TIME, round(seconds / TIME_STEP))

    def context(self, prompt: str, room: int) -> list[int]:
        """Return what is put before the start token: <|startofprev|> and a text's last tokens.

        Args:
            prompt: what was said before.
            room: tokens that the decoder has left.
        """
        most = min(room - 1, PROMPT_TOKENS)
        if most < 1:
            return []
        ids = self.tokenizer(" " + prompt, add_special_tokens=False)["input_ids"]
        return [self._id(PREVIOUS), *ids[-most:]]

    def count(self, texts: Sequence[str], languages: Sequence[str]) -> list[int]:
        """Return the length of each whole sequence, in tokens: encode() for many."""
        extra = {language: len(self.prefix(language)) + 1 for language in set(languages)}
        lengths = self.measure(texts)
        return [n + extra[language] for n, language in zip(lengths, languages, strict=True)]

    def measure(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text alone."""
        # what the tokenizer's own call returns takes 3 times as long and 2 KB a text
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast
        lengths: list[int] = []
        for start in range(0, len(texts), TOKENIZED):
            chunk = texts[start : start + TOKENIZED]
            lengths += map(len, encode(chunk, add_special_tokens=False))
        return lengths

    def _id(self, token: str) -> int:
        return self.vocabulary[token]
