"""Evaluator: transcribe and score utterances, sharded over processes."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.progress import track
from torch import Tensor

from data.atomic_files import write_json, write_jsonl
from data.audio import decode
from data.batch import Batch
from data.config import DataConfig
from data.dataloader import BatchPreparer, eval_batches
from data.errors import InputError
from data.utterance import Utterance
from eval.batch_size import CPU_SECONDS, GPU_SECONDS, BatchMemory, MaxRows, group_clips
from eval.batch_splitter import BatchSplitter
from eval.config import EvalConfig
from eval.device import explain_out_of_memory, free_memory
from eval.generate import DecodeResult, encode, transcribe
from eval.greedy import GreedyDecoder
from eval.half_precision import half_precision_copy
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores, score
from eval.reference_loss import fits_label, reference_losses
from eval.silence_states import compute_silence_states, set_silence_states
from eval.whisper import Whisper

SCORES, UTTERANCES = "scores.json", "utterances.jsonl"  # in the folder of an evaluation

TranscribeBatch = Callable[[Batch], list[DecodeResult]]
Track = Callable[[range, str], Iterable[int]]  # yields the numbers of a range, drawing progress


def track_rounds(rounds: range, label: str) -> Iterable[int]:
    """Draw a progress bar if stdout is a terminal."""
    return track(rounds, label, disable=not sys.stdout.isatty(), transient=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """Transcribes and scores utterances with one model and one config."""

    accelerator: Accelerator
    whisper: Whisper
    data: DataConfig
    config: EvalConfig
    silence: bool = True  # use silence states at true length, as in training
    heartbeat: Callable[[], None] = lambda: None  # called before every batch, on every process
    show_progress: Callable[[], None] = lambda: None  # called within a batch that may take long
    pause_watchdog: Callable[[], None] = lambda: None  # called before work of unknown length
    track: Track = track_rounds  # draws the progress, on the main process

    @property
    def precision(self) -> str:
        """Mixed precision of the evaluation: bf16, fp16 or no."""
        return str(self.accelerator.mixed_precision)

    def evaluate(
        self,
        utterances: Sequence[Utterance],
        label: str,
        *,
        true_length: bool = False,
        with_reference_loss: bool = False,
        load_audio: Callable[[Utterance], Tensor] = decode.load_audio,
    ) -> tuple[Scores, list[Hypothesis]]:
        """Transcribe and score utterances, clips over 30 s apart; the same on every process.

        Args:
            utterances: with references.
            label: shown beside the progress bar.
            true_length: encode clips at their own length instead of padding them to 30 s.
            with_reference_loss: compute the loss of each reference that fits into a label.
            load_audio: returns an utterance's samples.
        """
        started = time.perf_counter()
        training = self.whisper.model.training
        self.whisper.model.eval()
        whisper, labels = self._inference_copy(true_length=true_length), self.whisper.labels()
        greedy = GreedyDecoder(whisper)
        labelled = {u.id for u in utterances if with_reference_loss and fits_label(u, labels)}
        label_tokens = max((u.tokens for u in utterances if u.id in labelled), default=0)
        max_rows = self._max_rows(whisper, greedy, label_tokens)
        shard, rounds = self.shard(utterances, max_rows, true_length=true_length)
        inputs = [u if u.id in labelled else replace(u, text="") for u in utterances]
        preparer = BatchPreparer(labels, self.whisper.n_mels, self.accelerator.device)
        batches = eval_batches(
            inputs, self.data, preparer, shard, true_length=true_length, load=load_audio
        )
        transcribe_batch = partial(self._transcribe_batch, whisper, greedy, labelled)
        run = partial(BatchSplitter(greedy.free).run, transcribe_batch)
        results = self._transcribe(run, batches, rounds, label)
        self.whisper.model.train(training)
        seconds = time.perf_counter() - started
        hypotheses = [Hypothesis.of(u, results[u.id]) for u in utterances]
        config = self.config
        return score(hypotheses, config.normalizer, seconds, config.error_unit), hypotheses

    def _inference_copy(self, *, true_length: bool) -> Whisper:
        """Return the model in half precision if set, with silence states at true length."""
        with explain_out_of_memory("for an evaluation's copy of the model: set precision=fp32"):
            whisper = half_precision_copy(self.whisper, self.precision, self.accelerator.device)
            if true_length:
                states = compute_silence_states(whisper.model) if self.silence else None
                set_silence_states(whisper.model, states)
        return whisper

    def _transcribe(
        self, run: TranscribeBatch, batches: Iterator[Batch], rounds: int, label: str
    ) -> dict[str, DecodeResult]:
        """Return the result of each utterance by id, gathered from all processes."""
        tracked = self.track if self.accelerator.is_main_process else (lambda numbers, _: numbers)
        results: list[tuple[str, DecodeResult]] = []
        with torch.inference_mode():
            for _ in tracked(range(rounds), label):
                self.heartbeat()
                batch = next(batches, None)
                if batch is None:  # other processes have one more batch
                    continue
                if batch.drops:
                    first = batch.drops[0]
                    raise InputError(
                        f"{first.audio}: {first.reason} ({first.detail}): the file could be read "
                        "when the run began; restore it, or start a new run without it"
                    )
                results += zip(batch.ids, run(batch), strict=True)
        self.heartbeat()  # other processes may be slower: NCCL's gather waits ten minutes at most
        self.pause_watchdog()
        return dict(gather_object(results))

    def _transcribe_batch(
        self, whisper: Whisper, greedy: GreedyDecoder, labelled: Set[str], batch: Batch
    ) -> list[DecodeResult]:
        """Encode a batch once, for both its hypotheses and its reference losses."""
        states = encode(whisper, batch)
        results = transcribe(whisper, batch, self.config, states, self.show_progress, greedy)
        if states is None or labelled.isdisjoint(batch.ids):
            return results
        losses = reference_losses(whisper, batch, states)
        return [
            replace(result, reference_loss=loss if name in labelled else None)
            for name, result, loss in zip(batch.ids, results, losses, strict=True)
        ]

    @property
    def batch_seconds(self) -> float:
        """Padded audio of a batch at most, in seconds, if it fits in memory."""
        automatic = GPU_SECONDS if self.accelerator.device.type == "cuda" else CPU_SECONDS
        return self.config.batch_seconds or automatic

    def _rows_in_seconds(self, longest: float) -> int:
        return max(1, int(self.batch_seconds / longest))

    def _max_rows(self, whisper: Whisper, greedy: GreedyDecoder, label_tokens: int) -> MaxRows:
        """Return a function that gives the number of clips of a padded length to decode together.

        The GPU with the least free memory counts, since all processes need the same batches.
        """
        config, device = self.config, self.accelerator.device
        if config.batch_seconds is not None or device.type != "cuda":
            return self._rows_in_seconds
        memory = BatchMemory(
            whisper=whisper, greedy=greedy, config=config, label_tokens=label_tokens
        )
        return partial(memory.rows, free=min(gather_object([free_memory(device)])))

    def shard(
        self, utterances: Sequence[Utterance], max_rows: MaxRows, *, true_length: bool
    ) -> tuple[list[list[int]], int]:
        """Return this process's batches of indices, and the largest number of any process."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        batches = group_clips(
            utterances, true_length=true_length, processes=processes, max_rows=max_rows
        )
        return batches[rank::processes], -(-len(batches) // processes)


def save(folder: Path, scores: Scores, hypotheses: Sequence[Hypothesis], **facts: Any) -> None:
    """Write scores.json and utterances.jsonl.

    Args:
        folder: of the evaluation.
        scores: what score() returned for the hypotheses.
        hypotheses: one for each utterance.
        facts: other entries of scores.json.
    """
    rows = (h.to_json(scores.compared[h.utterance.id]) for h in hypotheses)
    write_jsonl(folder / UTTERANCES, rows)
    write_json(folder / SCORES, {**facts, **scores.to_json()})
