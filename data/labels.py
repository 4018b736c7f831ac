"""LabelEncoder: transcripts to token ids with Whisper's special tokens."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from data.errors import InputError

START = "<|startoftranscript|>"
NO_TIMESTAMPS = "<|notimestamps|>"
END = "<|endoftext|>"
PREVIOUS = "<|startofprev|>"
PROMPT_TOKENS = 223  # at most of a prompt: its last ones, as in Whisper's own decoding
TIME_STEP = 0.02  # seconds between timestamp tokens, whose ids follow <|notimestamps|>
LAST_TIME = 1500  # index of the last timestamp token: 30 s
MAX_TOKENS = 448  # decoder positions in every published model
TEXTS_PER_CALL = 4_000  # tokenized at a time
UNSPACED = frozenset(
    {"zh", "yue", "ja", "th", "lo", "my", "km"}
)  # written without spaces between words


class LabelEncoder:
    """Encodes labels: <|startoftranscript|><|zh|><|transcribe|><|notimestamps|>…<|endoftext|>.

    The start token is Whisper's decoder_start_token, not its bos_token, which is <|endoftext|>. The
    widely copied collator compares with bos, never cuts, and trains on two start tokens
    (huggingface/audio-transformers-course#85).
    """

    def __init__(
        self, tokenizer: Any, *, max_tokens: int, multilingual: bool, vocabulary_size: int = 0
    ) -> None:
        """Wrap a Whisper tokenizer.

        Args:
            tokenizer: a transformers WhisperTokenizer.
            max_tokens: decoder positions of the model, 448 in every published one.
            multilingual: whether the model was trained with language tokens. The vocabularies of
                English-only models contain them too.
            vocabulary_size: output classes of the model. Some tokenizers have no text for the
                timestamp tokens.
        """
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.multilingual = multilingual
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.start_id, self.end_id = self._id(START), self._id(END)
        self.has_timestamps = self._id(NO_TIMESTAMPS) + 1 + LAST_TIME < vocabulary_size

    def prefix(self, language: str, task: str = "transcribe") -> list[int]:
        """Return the special tokens before the text.

        Args:
            language: Whisper's code: en, zh, ….
            task: transcribe or translate.

        Raises:
            InputError: the model does not support the language.
        """
        if not self.multilingual:
            if language != "en":
                raise InputError(
                    f"data.language is {language!r}, but the model is English-only: "
                    "take a multilingual model, or set data.language=en"
                )
            return [self.start_id, self._id(NO_TIMESTAMPS)]
        if f"<|{language}|>" not in self.vocabulary:
            raise InputError(
                f"the model does not support language {language!r}: "
                "set data.language to one of Whisper's codes, such as en, zh, yue or ko"
            )
        return [self._id(t) for t in (START, f"<|{language}|>", f"<|{task}|>", NO_TIMESTAMPS)]

    def encode(self, text: str, language: str, task: str = "transcribe") -> list[int]:
        """Return the token ids of a text with all special tokens.

        Raises:
            InputError: the model does not support the language.
        """
        return self.add_special_tokens(self.encode_texts([text], language), language, task)

    def encode_texts(self, texts: Sequence[str], language: str) -> list[list[int]]:
        """Return the token ids of consecutive texts, without special tokens.

        All but the first begin with a space, unless the language is written without.
        """
        space = "" if language in UNSPACED else " "
        spaced = [*texts[:1], *(space + text for text in texts[1:])]
        return [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in spaced]

    def add_special_tokens(
        self,
        encode_texts: Sequence[Sequence[int]],
        language: str,
        task: str = "transcribe",
        times: Sequence[tuple[float, float]] = (),
    ) -> list[int]:
        """Add the prefix, the end token and optionally timestamps to encoded texts.

        Args:
            pieces: token ids of consecutive texts, as encode_texts() returns them.
            language: Whisper's code: en, zh, ….
            task: transcribe or translate.
            times: start and end of each text, in seconds. Empty: no timestamps.

        Raises:
            InputError: the model does not support the language.
        """
        prefix = self.prefix(language, task)
        if times:
            prefix.pop()  # <|notimestamps|>
            encode_texts = [
                [self.timestamp_token(start), *piece, self.timestamp_token(end)]
                for piece, (start, end) in zip(encode_texts, times, strict=True)
            ]
        ids = [*prefix, *chain(*encode_texts), self.end_id]
        assert ids.count(self.start_id) == 1, ids
        return ids

    def timestamp_token(self, seconds: float) -> int:
        """Return the token id of a time within a window, rounded to 0.02 s."""
        return self._id(NO_TIMESTAMPS) + 1 + min(LAST_TIME, round(seconds / TIME_STEP))

    def prompt_tokens(self, prompt: str, available: int) -> list[int]:
        """Return <|startofprev|> and a prompt's last tokens, which precede the start token.

        Args:
            prompt: the preceding transcript.
            available: free decoder positions.
        """
        limit = min(available - 1, PROMPT_TOKENS)
        if limit < 1:
            return []
        ids = self.tokenizer(" " + prompt, add_special_tokens=False)["input_ids"]
        return [self._id(PREVIOUS), *ids[-limit:]]

    def count_tokens(self, texts: Sequence[str], languages: Sequence[str]) -> list[int]:
        """Return the number of tokens that encode() returns for each text."""
        special_tokens = {language: len(self.prefix(language)) + 1 for language in set(languages)}
        lengths = self.count_text_tokens(texts)
        return [
            n + special_tokens[language] for n, language in zip(lengths, languages, strict=True)
        ]

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without special tokens."""
        # the tokenizer's __call__() takes 3 times as long, and 2 KB per text
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast
        lengths: list[int] = []
        for start in range(0, len(texts), TEXTS_PER_CALL):
            chunk = texts[start : start + TEXTS_PER_CALL]
            lengths += map(len, encode(chunk, add_special_tokens=False))
        return lengths

    def _id(self, token: str) -> int:
        return self.vocabulary[token]
