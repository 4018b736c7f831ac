"""What a model unlearns: a few clips in another language or task, scored beside dev.

They are chosen at a run's first evaluation and kept in its folder, so that all its evaluations hear
the same. Where the corpus has no texts, what the model heard in them at first takes their place.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.atomic_files import read_jsonl, write_jsonl
from data.errors import InputError
from data.lazy_manifest import parse_row
from data.manifest import read_held_out, scan_cache_path
from data.utterance import Utterance
from eval.evaluate import SCORES, UTTERANCES, Evaluator
from eval.main_process import run_on_main_process
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores, score

CHOSEN = "forgetting.jsonl"  # in a run's folder eval/
GROWN, GROWN_BY = 1.1, 0.01  # times the first error, and at least so much more: worth a warning


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """How well a model still does what it was not trained on."""

    scores: Scores
    heard: list[Hypothesis]
    first: dict[str, Any]  # scores.json of the run's first evaluation
    own: bool  # whether the references are what the model heard at first

    def metrics(self) -> dict[str, float]:
        """Return the error under a slash name: a fraction."""
        return {"meters/forgetting": self.scores.error}

    def grown(self) -> list[str]:
        """Return a sentence where the error grew since the run's first evaluation."""
        was, now = self.first["error"], self.scores.error
        if now <= was * GROWN or now < was + GROWN_BY:
            return []
        return [
            f"forgetting: {was:.1%} → {now:.1%}: lower optim.lr, train shorter, or mix some of "
            "that speech into data.corpus"
        ]


def measure_forgetting(
    evaluator: Evaluator, evaluations: Path, *, true_length: bool
) -> Forgetting | None:
    """Score the clips; every process must call. None where no corpus is named.

    Args:
        evaluator: with eval.forgetting_corpus.
        evaluations: the run's folder eval/.
        true_length: as in Evaluator.evaluate().

    Raises:
        InputError: the corpus cannot be used.
    """
    config = evaluator.config
    if config.forgetting_corpus is None:
        return None
    chosen = _agreed(evaluator, evaluations / CHOSEN)
    scores, heard = evaluator.evaluate(chosen, "forgetting", true_length=true_length)
    first = min(evaluations.glob("step-*/forgetting"), default=None)
    own = not any(u.text.strip() for u in chosen)
    if own:
        texts = {h.utterance.id: h.text for h in heard}
        if first is not None:
            rows = read_jsonl(first / UTTERANCES)
            texts = {row["id"]: row["hypothesis"] for row in rows}
        heard = [replace(h, utterance=_said(h.utterance, texts)) for h in heard]
        scores = score(heard, config.normalizer, scores.seconds, config.error_unit)
    saved = None if first is None else json.loads((first / SCORES).read_text(encoding="utf-8"))
    return Forgetting(scores=scores, heard=heard, first=saved or scores.to_json(), own=own)


def _said(utterance: Utterance, texts: dict[str, str]) -> Utterance:
    return replace(utterance, text=texts.get(utterance.id, ""))


def _agreed(evaluator: Evaluator, path: Path) -> list[Utterance]:
    """Return the clips, chosen on the main process at a run's first evaluation, on all.

    That scans a corpus, which may take any time.

    Raises:
        InputError: the corpus cannot be used, or another was heard so far.
    """
    evaluator.pause_watchdog()
    clips = run_on_main_process(evaluator.accelerator, lambda: _chosen(evaluator, path))
    named = evaluator.config.forgetting_corpus
    if clips[0].corpus != named:
        raise InputError(
            f"eval.forgetting_corpus is {named}, but this run has heard {clips[0].corpus} so far: "
            f"set it back, or remove {path}"
        )
    return clips


def _chosen(evaluator: Evaluator, path: Path) -> list[Utterance]:
    try:
        if not path.exists():
            chosen = choose(evaluator, path.parent.parent.parent)
            write_jsonl(path, (u.to_json() for u in chosen))
        return [parse_row(row) for row in read_jsonl(path)]
    except OSError as error:
        raise InputError(str(error)) from error


def choose(evaluator: Evaluator, runs: Path) -> list[Utterance]:
    """Return a few clips of the corpus: the same ones, whatever order it is in.

    Args:
        evaluator: with eval.forgetting_corpus.
        runs: where lengths are remembered between runs.

    Raises:
        InputError: the corpus cannot be used.
    """
    config = evaluator.config
    data = replace(
        evaluator.data,
        corpus=(str(config.forgetting_corpus),),
        layout=("auto",),
        language=() if config.forgetting_language is None else (config.forgetting_language,),
        task=(config.forgetting_task,),
        audio_root=(),
        weights=(),
        hours_per_epoch=(),
        subset=None,
        data_files=(),
        revision=None,
        streaming=False,
        train_split="train",
        dev_split=None,
        test_split=None,
    )
    labels, cache = evaluator.whisper.labels(), scan_cache_path(runs, data)
    rows, _ = read_held_out(data, labels, cache, split=config.forgetting_split, show=True)
    rows.sort(key=lambda u: hashlib.sha256(u.id.encode()).digest())
    return rows[: config.forgetting_clips]
