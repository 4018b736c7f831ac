"""A loaded model that writes down what is said in files, several short ones at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from data.audio.decode import load_audio
from data.audio.source import AudioError
from data.dataloader import unlabelled_batch
from data.errors import InputError
from data.log_mel import CHUNK_SECONDS, N_FRAMES, SAMPLE_RATE, LogMel
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.decode import DecodeResult, encode, transcribe
from eval.device import Precision, build_evaluation_accelerator
from eval.faster_whisper_model import load_faster_whisper_model
from eval.half_precision import half_precision_copy
from eval.segments import Segment, joined, tidy
from eval.silence_states import compute_silence_states, set_silence_states
from eval.transcribe.audio_files import Failure, Source
from eval.whisper import load_whisper

Clip = tuple[Source, Utterance, Tensor]


class Transcript(NamedTuple):
    """What was heard in a file."""

    source: Source
    seconds: float
    language: str | None
    text: str
    segments: list[Segment]
    truncated: bool


class Transcriber:
    """A Whisper, loaded, on a device."""

    def __init__(self, name: str, config: EvalConfig, precision: Precision) -> None:
        """Load the model.

        Args:
            name: a folder or a name on the Hub.
            config: how to decode.
            precision: auto, fp32, fp16 or bf16.

        Raises:
            InputError: it is not there, or has no tokens of the times that are asked for.
        """
        accelerator = build_evaluation_accelerator(precision)
        self._config = config
        loaded = load_whisper(name)
        loaded.model.to(accelerator.device).eval()
        self.whisper = half_precision_copy(loaded, accelerator.mixed_precision)
        if config.timestamps and not self.whisper.labels().has_timestamps:
            raise InputError(
                f"model {name!r} has no tokens of times, which subtitles need: take format txt"
            )
        self._mel = LogMel(self.whisper.n_mels).to(accelerator.device)
        if config.pad == "bucket":
            set_silence_states(self.whisper.model, compute_silence_states(loaded.model))

    def hear(self, clips: Sequence[Clip]) -> list[tuple[Utterance, DecodeResult]]:
        """Return what is heard in clips of up to 30 s, or in one that is longer."""
        utterances = [u for _, u, _ in clips]
        waveforms, true_length = [samples for *_, samples in clips], self._config.pad == "bucket"
        with torch.inference_mode():
            batch = unlabelled_batch(utterances, waveforms, self._mel, true_length=true_length)
            utterances = self._with_languages(utterances, batch.features)
            batch.languages = [u.language or "" for u in utterances]
            states = encode(self.whisper, batch)
            heard = transcribe(self.whisper, batch, self._config, states)
        return list(zip(utterances, heard, strict=True))

    def _with_languages(self, utterances: list[Utterance], features: Tensor) -> list[Utterance]:
        """Let the model say what is spoken in the first 30 s, where nobody did."""
        if not self.whisper.multilingual or utterances[0].language is not None:
            return utterances
        first = features[..., :N_FRAMES].to(self.whisper.model.dtype)
        if first.shape[-1] < N_FRAMES:
            states = self.whisper.model.model.encoder(first)
            ids = self.whisper.model.detect_language(encoder_outputs=states)
        else:
            ids = self.whisper.model.detect_language(first)
        tokens = self.whisper.processor.tokenizer.convert_ids_to_tokens(ids.flatten().tolist())
        return [
            replace(u, language=t.strip("<|>")) for u, t in zip(utterances, tokens, strict=True)
        ]


class FasterWhisperTranscriber:
    """The same of a model that CTranslate2 converted."""

    def __init__(self, name: str, config: EvalConfig, precision: Precision) -> None:
        """Load the folder.

        Args:
            name: the folder.
            config: how to decode.
            precision: auto, fp32, fp16 or bf16.

        Raises:
            InputError: as load_ct2().
        """
        self.whisper = load_faster_whisper_model(name, config, precision)

    def hear(self, clips: Sequence[Clip]) -> list[tuple[Utterance, DecodeResult]]:
        """Return what is heard in each clip."""
        return [(u, self.whisper.transcribe(u, samples.numpy())) for _, u, samples in clips]


def transcripts(
    scribe: Transcriber | FasterWhisperTranscriber, clips: Iterator[Clip], size: int
) -> Iterator[Transcript]:
    """Yield what is heard in each clip, in order.

    Args:
        scribe: hears.
        clips: decoded one after another.
        size: those of up to 30 s that are heard together.
    """
    for group in _groups(clips, size):
        for (source, *_), (u, heard) in zip(group, scribe.hear(group), strict=True):
            segments = heard.segments or (Segment(0.0, u.seconds, heard.text),)
            written = "en" if u.task == "translate" else u.language
            yield Transcript(
                source=source,
                seconds=u.seconds,
                language=u.language,
                text=reduce(partial(joined, language=written), (s.text for s in segments)).strip(),
                segments=tidy(segments, u.seconds, written),
                truncated=heard.truncated,
            )


def decoded(
    sources: Sequence[Source], language: str | None, task: str, failures: list[Failure]
) -> Iterator[Clip]:
    """Yield files with their samples; one that cannot be read joins the failures."""
    for source in sources:
        audio = str(source.path)
        utterance = Utterance(id=audio, audio=audio, text="", language=language, task=task)
        try:
            samples = load_audio(utterance)
        except AudioError as error:
            failures.append(Failure(audio, f"{error.reason} ({error.detail})"))
            continue
        yield source, replace(utterance, seconds=len(samples) / SAMPLE_RATE), samples


def _groups(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    """Yield up to so many clips of up to 30 s, and longer ones alone, in order."""
    held: list[Clip] = []
    for clip in clips:
        if clip[1].seconds > CHUNK_SECONDS:
            if held:
                yield held
            yield [clip]
            held = []
            continue
        held.append(clip)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
