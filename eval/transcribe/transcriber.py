"""Transcribe audio files with a loaded model, in batches of short files."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from data.audio.decode import load_audio
from data.audio.open_audio import AudioError
from data.dataloader import unlabelled_batch
from data.errors import InputError
from data.log_mel import CHUNK_SECONDS, N_FRAMES, SAMPLE_RATE, LogMel
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.device import Precision, build_evaluation_accelerator
from eval.faster_whisper_model import load_faster_whisper_model
from eval.generate import DecodeResult, encode, transcribe
from eval.greedy import GreedyDecoder
from eval.half_precision import half_precision_copy
from eval.segments import Segment, clean_up_segments, join_texts
from eval.silence_states import compute_silence_states, set_silence_states
from eval.transcribe.audio_files import Failure, Source
from eval.whisper import load_whisper

Clip = tuple[Source, Utterance, Tensor]  # file, its metadata, samples at 16 kHz


class Transcript(NamedTuple):
    """The transcript of a file."""

    source: Source
    seconds: float
    language: str | None
    text: str
    segments: list[Segment]
    truncated: bool


class Transcriber:
    """A Whisper model on a device, with its decoding config."""

    def __init__(self, name: str, config: EvalConfig, precision: Precision) -> None:
        """Load the model.

        Args:
            name: a folder or a name on the Hub.
            config: how to decode.
            precision: auto, fp32, fp16 or bf16.

        Raises:
            InputError: the model cannot be loaded, or lacks the timestamp tokens that are needed.
        """
        accelerator = build_evaluation_accelerator(precision)
        self._config = config
        loaded = load_whisper(name)
        loaded.model.to(accelerator.device).eval()
        self.whisper = half_precision_copy(loaded, accelerator.mixed_precision)
        if config.timestamps and not self.whisper.labels().has_timestamps:
            raise InputError(
                f"model {name!r} has no timestamp tokens, which subtitles need: use format txt"
            )
        self._greedy = GreedyDecoder(self.whisper)
        self._mel = LogMel(self.whisper.n_mels).to(accelerator.device)
        if config.pad == "bucket":
            set_silence_states(self.whisper.model, compute_silence_states(loaded.model))

    def transcribe(self, clips: Sequence[Clip]) -> list[tuple[Utterance, DecodeResult]]:
        """Transcribe a batch of clips of up to 30 s, or one longer clip."""
        utterances = [u for _, u, _ in clips]
        waveforms, true_length = [samples for *_, samples in clips], self._config.pad == "bucket"
        with torch.inference_mode():
            batch = unlabelled_batch(utterances, waveforms, self._mel, true_length=true_length)
            states = encode(self.whisper, batch)
            utterances = self._with_languages(utterances, batch.features, states)
            batch.languages = [u.language or "" for u in utterances]
            results = transcribe(self.whisper, batch, self._config, states, greedy=self._greedy)
        return list(zip(utterances, results, strict=True))

    def _with_languages(
        self, utterances: list[Utterance], features: Tensor, states: Tensor | None
    ) -> list[Utterance]:
        """Detect the language in the first 30 s of each clip, unless it is given.

        Args:
            utterances: the clips.
            features: of the clips.
            states: their encoder output; None for a clip over 30 s.
        """
        model = self.whisper.model
        if not self.whisper.multilingual or utterances[0].language is not None:
            return utterances
        if states is None:
            ids = model.detect_language(features[..., :N_FRAMES].to(model.dtype))
        else:
            ids = model.detect_language(encoder_outputs=BaseModelOutput(states))
        tokens = self.whisper.processor.tokenizer.convert_ids_to_tokens(ids.flatten().tolist())
        return [
            replace(u, language=t.strip("<|>")) for u, t in zip(utterances, tokens, strict=True)
        ]


class FasterWhisperTranscriber:
    """A model that was converted for CTranslate2, with the interface of Transcriber."""

    def __init__(self, name: str, config: EvalConfig, precision: Precision) -> None:
        """Load the folder.

        Args:
            name: the folder.
            config: how to decode.
            precision: auto, fp32, fp16 or bf16.

        Raises:
            InputError: as load_faster_whisper_model().
        """
        self.whisper = load_faster_whisper_model(name, config, precision)

    def transcribe(self, clips: Sequence[Clip]) -> list[tuple[Utterance, DecodeResult]]:
        """Transcribe clips of any length."""
        return [(u, self.whisper.transcribe(u, samples.numpy())) for _, u, samples in clips]


def transcribe_clips(
    transcriber: Transcriber | FasterWhisperTranscriber, clips: Iterator[Clip], batch_size: int
) -> Iterator[Transcript]:
    """Yield the transcript of each clip, in order.

    Args:
        transcriber: a loaded model.
        clips: with their samples.
        batch_size: number of clips of up to 30 s in a batch.
    """
    for batch in _batches(clips, batch_size):
        for (source, *_), (u, result) in zip(batch, transcriber.transcribe(batch), strict=True):
            segments = result.segments or (Segment(0.0, u.seconds, result.text),)
            language = "en" if u.task == "translate" else u.language
            join = partial(join_texts, language=language)
            yield Transcript(
                source=source,
                seconds=u.seconds,
                language=u.language,
                text=reduce(join, (s.text for s in segments)).strip(),
                segments=clean_up_segments(segments, u.seconds, language),
                truncated=result.truncated,
            )


def load_clips(
    sources: Sequence[Source], language: str | None, task: str, failures: list[Failure]
) -> Iterator[Clip]:
    """Yield files with their samples; a file that cannot be read is appended to the failures."""
    for source in sources:
        audio = str(source.path)
        utterance = Utterance(id=audio, audio=audio, text="", language=language, task=task)
        try:
            samples = load_audio(utterance)
        except AudioError as error:
            failures.append(Failure(audio, f"{error.reason} ({error.detail})"))
            continue
        yield source, replace(utterance, seconds=len(samples) / SAMPLE_RATE), samples


def _batches(clips: Iterator[Clip], batch_size: int) -> Iterator[list[Clip]]:
    """Yield batches of clips of up to 30 s, and longer clips alone, in order."""
    batch: list[Clip] = []
    for clip in clips:
        if clip[1].seconds > CHUNK_SECONDS:
            if batch:
                yield batch
            yield [clip]
            batch = []
            continue
        batch.append(clip)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
