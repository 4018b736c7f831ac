"""Score a model on utterances, sharded over processes; each utterance counts once."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.progress import track
from torch import Tensor

from data.atomic_files import write_json, write_jsonl
from data.audio.decode import load_audio
from data.batch import Batch
from data.config import DataConfig
from data.dataloader import BatchPreparer, eval_batches
from data.errors import InputError
from data.log_mel import CHUNK_SECONDS, FRAMES_PER_SECOND
from data.sampling.epoch_plan import padded_frames
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.decode import DecodeResult, encode, transcribe
from eval.device import naming_out_of_memory
from eval.half_precision import half_precision_copy
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores, score
from eval.reference_loss import has_label, likelihoods
from eval.silence_states import compute_silence_states, set_silence_states
from eval.whisper import Whisper

LIKE = 0.5  # of the longest clip of its batch: what is shorter waits for the next one
SCORES, UTTERANCES = "scores.json", "utterances.jsonl"  # of an evaluation's folder

Track = Callable[[range, str], Iterable[int]]  # passes rounds through, and draws their progress


def track_rounds(rounds: range, label: str) -> Iterable[int]:
    """Draw a progress bar of its own, where stdout is a terminal."""
    return track(rounds, label, disable=not sys.stdout.isatty(), transient=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """Decodes and scores splits with one set of knobs."""

    accelerator: Accelerator
    whisper: Whisper
    data: DataConfig
    config: EvalConfig
    silence: bool = True  # at true length clips are heard as if silence followed: as in training
    beat: Callable[[], None] = lambda: None  # before every batch, as often on every process
    show_progress: Callable[[], None] = lambda: None  # within a batch that may take long
    pause_watchdog: Callable[[], None] = lambda: None  # before work of unknown length
    track: Track = track_rounds  # on the main process

    @property
    def precision(self) -> str:
        """Return what to compute in: bf16, fp16 or no."""
        return str(self.accelerator.mixed_precision)

    def evaluate(
        self,
        utterances: Sequence[Utterance],
        label: str,
        *,
        true_length: bool = False,
        costs: bool = False,
        hear: Callable[[Utterance], Tensor] = load_audio,
    ) -> tuple[Scores, list[Hypothesis]]:
        """Transcribe and score; the result is the same on every process.

        Clips up to 30 s give the main figures. Longer ones are transcribed whole and scored apart.

        Args:
            utterances: what to transcribe, with references.
            label: shown beside the progress bar.
            true_length: whether the encoder hears clips without padding them to 30 s.
            costs: whether to tell what the references cost that labels can hold.
            hear: returns an utterance's samples.
        """
        started = time.perf_counter()
        training = self.whisper.model.training
        self.whisper.model.eval()
        with naming_out_of_memory("for an evaluation's copy of the model: set precision=fp32"):
            whisper = half_precision_copy(self.whisper, self.precision)
            if true_length:
                set_silence_states(
                    whisper.model,
                    compute_silence_states(self.whisper.model) if self.silence else None,
                )
        mine, rounds = self.share(utterances, true_length=true_length)
        encoder = self.whisper.labels()
        known = {u.id for u in utterances if costs and has_label(u, encoder)}
        told = [u if u.id in known else replace(u, text="") for u in utterances]
        stages = BatchPreparer(encoder, self.whisper.n_mels, self.accelerator.device)
        batches = eval_batches(told, self.data, stages, mine, true_length=true_length, load=hear)
        heard = self._transcribe(whisper, batches, rounds, label, known)
        self.whisper.model.train(training)
        seconds = time.perf_counter() - started
        hypotheses = [Hypothesis.of(u, heard[u.id]) for u in utterances]
        config = self.config
        return score(hypotheses, config.normalizer, seconds, config.error_unit), hypotheses

    def _transcribe(
        self, whisper: Whisper, batches: Iterator[Batch], rounds: int, label: str, known: Set[str]
    ) -> dict[str, DecodeResult]:
        """Return what was heard in each utterance by id, gathered from all processes."""
        numbers = range(rounds)
        shown = self.track(numbers, label) if self.accelerator.is_main_process else numbers
        heard: list[tuple[str, DecodeResult]] = []
        with torch.inference_mode():
            for _ in shown:
                self.beat()
                batch = next(batches, None)
                if batch is None:  # others have one more
                    continue
                if batch.drops:
                    first = batch.drops[0]
                    raise InputError(
                        f"{first.audio}: {first.reason} ({first.detail}): it was sound when the "
                        "run began; put it back, or start a new run without it"
                    )
                told = f"in an evaluation batch of {len(batch.ids)} clips: "
                told += f"set eval.batch_seconds lower (it is {self.config.batch_seconds:g})"
                with naming_out_of_memory(told):
                    heard += zip(batch.ids, self._hear(whisper, batch, known), strict=True)
        self.beat()  # another may have more to hear: NCCL, which gathers, waits ten minutes only
        self.pause_watchdog()
        return dict(gather_object(heard))

    def _hear(self, whisper: Whisper, batch: Batch, known: Set[str]) -> list[DecodeResult]:
        """Encode once, for both what is heard and what the known references cost."""
        states = encode(whisper, batch)
        heard = transcribe(whisper, batch, self.config, states, self.show_progress)
        if states is None or known.isdisjoint(batch.ids):
            return heard
        costs = zip(batch.ids, likelihoods(whisper, batch, states), strict=True)
        told = (cost if name in known else None for name, cost in costs)
        return [replace(h, likelihood=cost) for h, cost in zip(heard, told, strict=True)]

    def share(
        self, utterances: Sequence[Utterance], *, true_length: bool
    ) -> tuple[list[list[int]], int]:
        """Return this process's batches, and how many the process with the most has.

        Clips of one task and similar length are together, the longest first, those over 30 s alone:
        at true length a clip costs as much as the longest of its batch.
        """

        def padded(index: int) -> float:
            seconds = utterances[index].seconds
            return padded_frames(seconds) / FRAMES_PER_SECOND if true_length else CHUNK_SECONDS

        order = sorted(range(len(utterances)), key=lambda i: -utterances[i].seconds)
        batches = [[i] for i in order if utterances[i].seconds > CHUNK_SECONDS]
        short, processes = order[len(batches) :], self.accelerator.num_processes
        budget = self.config.batch_seconds
        if processes > 1:  # none shall wait for one that has all
            budget = min(budget, sum(map(padded, short)) / processes)
        for task in sorted({u.task for u in utterances}):
            alike = [i for i in short if utterances[i].task == task]
            while alike:
                longest = padded(alike[0])
                most = alike[: max(1, int(budget / longest))]
                batches.append([i for i in most if padded(i) >= LIKE * longest])
                alike = alike[len(batches[-1]) :]
        return batches[self.accelerator.process_index :: processes], -(-len(batches) // processes)


def save(folder: Path, scores: Scores, hypotheses: Sequence[Hypothesis], **facts: Any) -> None:
    """Write scores.json and utterances.jsonl."""
    rows = (h.to_json(scores.compared[h.utterance.id]) for h in hypotheses)
    write_jsonl(folder / UTTERANCES, rows)
    write_json(folder / SCORES, {**facts, **scores.to_json()})
