"""Score a model on utterances, sharded over processes; each utterance counts once."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.progress import track

from data.config import DataConfig
from data.errors import InputError
from data.features import CHUNK_SECONDS
from data.files import write_json, write_jsonl
from data.loader import Stages, eval_batches
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.decode import transcribe
from eval.scores import Hypothesis, Scores, score
from eval.silence import lend, listen
from eval.whisper import Whisper


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """Decodes and scores splits with one set of knobs."""

    accelerator: Accelerator
    whisper: Whisper
    data: DataConfig
    config: EvalConfig
    beat: Callable[[], None] = lambda: None  # before every batch, as often on every process

    def evaluate(
        self, utterances: Sequence[Utterance], label: str, *, true_length: bool = False
    ) -> tuple[Scores, list[Hypothesis]]:
        """Transcribe and score; the result is the same on every process.

        Clips up to 30 s give the main figures. Longer ones are transcribed whole and scored apart.

        Args:
            utterances: what to transcribe, with references.
            label: shown beside the progress bar.
            true_length: whether the encoder hears clips without padding them to 30 s.
        """
        started = time.perf_counter()
        training = self.whisper.model.training
        self.whisper.model.eval()
        if true_length:
            lend(self.whisper.model, listen(self.whisper.model))
        texts = self._transcribe(utterances, label, true_length=true_length)
        self.whisper.model.train(training)
        seconds = time.perf_counter() - started
        hypotheses = [Hypothesis(utterance=u, text=texts[u.id]) for u in utterances]
        config = self.config
        return score(hypotheses, config.normalizer, seconds, config.unit), hypotheses

    def _transcribe(
        self, utterances: Sequence[Utterance], label: str, *, true_length: bool
    ) -> dict[str, str]:
        """Return the text of each utterance by id, gathered from all processes."""
        mine, rounds = self._share(utterances)
        labels = self.whisper.labels()
        stages = Stages(labels, self.whisper.n_mels, self.accelerator.device)
        loader = eval_batches(utterances, self.data, stages, mine, true_length=true_length)
        quiet = not (self.accelerator.is_main_process and sys.stdout.isatty())
        texts: list[tuple[str, str]] = []
        with self.accelerator.autocast(), torch.inference_mode():
            batches = iter(loader)
            for _ in track(range(rounds), label, disable=quiet, transient=True):
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
                found = transcribe(self.whisper, batch, self.config)
                texts += zip(batch.ids, found, strict=True)
        return dict(gather_object(texts))

    def _share(self, utterances: Sequence[Utterance]) -> tuple[list[list[int]], int]:
        """Return this process's batches, and how many the process with the most has.

        Clips of one task and similar length are together, the longest first, those over 30 s alone.
        """
        order = sorted(range(len(utterances)), key=lambda i: -utterances[i].seconds)
        batches = [[i] for i in order if utterances[i].seconds > CHUNK_SECONDS]
        short, size = order[len(batches) :], self.config.batch_clips
        for task in sorted({u.task for u in utterances}):
            alike = [i for i in short if utterances[i].task == task]
            batches += [alike[i : i + size] for i in range(0, len(alike), size)]
        processes = self.accelerator.num_processes
        return batches[self.accelerator.process_index :: processes], -(-len(batches) // processes)


def save(folder: Path, scores: Scores, hypotheses: Sequence[Hypothesis], **facts: Any) -> None:
    """Write scores.json and utterances.jsonl."""
    rows = (h.to_json(scores.compared[h.utterance.id]) for h in hypotheses)
    write_jsonl(folder / "utterances.jsonl", rows)
    write_json(folder / "scores.json", {**facts, **scores.to_json()})
