"""Measure forgetting: score a few clips of another language or task beside dev.

The clips are chosen at a run's first evaluation and kept in its folder, so that all evaluations
score the same clips. If the corpus has no transcripts, the hypotheses of the first evaluation are
the references.
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
# warn if the error rate is this many times the first one, and at least so much higher
WARN_RATIO, WARN_INCREASE = 1.1, 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """Scores on the forgetting clips, and those of the run's first evaluation."""

    scores: Scores
    hypotheses: list[Hypothesis]
    first: dict[str, Any]  # scores.json of the run's first evaluation
    own: bool  # the references are the model's first hypotheses

    def metrics(self) -> dict[str, float]:
        """Return the error rate, a fraction, by slash name."""
        return {"meters/forgetting": self.scores.error}

    def warnings(self) -> list[str]:
        """Return a warning if the error rate rose since the run's first evaluation."""
        before, now = self.first["error"], self.scores.error
        if now <= before * WARN_RATIO or now < before + WARN_INCREASE:
            return []
        return [
            f"forgetting: {before:.1%} → {now:.1%}: lower optim.lr, train shorter, or mix some of "
            "that speech into data.corpus"
        ]


def measure_forgetting(
    evaluator: Evaluator, evaluations: Path, *, true_length: bool
) -> Forgetting | None:
    """Score the forgetting clips; all processes must call this.

    Args:
        evaluator: its config names eval.forgetting_corpus.
        evaluations: the run's folder eval/.
        true_length: as in Evaluator.evaluate().

    Returns:
        None if no corpus is set.

    Raises:
        InputError: the corpus cannot be read.
    """
    config = evaluator.config
    if config.forgetting_corpus is None:
        return None
    clips = _shared_clips(evaluator, evaluations / CHOSEN)
    # before this one is made: the main process may write it while others still look
    first = min(evaluations.glob("step-*/forgetting"), default=None)
    scores, hypotheses = evaluator.evaluate(clips, "forgetting", true_length=true_length)
    own = not any(u.text.strip() for u in clips)
    if own:
        texts = {h.utterance.id: h.text for h in hypotheses}
        if first is not None:
            rows = read_jsonl(first / UTTERANCES)
            texts = {row["id"]: row["hypothesis"] for row in rows}
        hypotheses = [replace(h, utterance=_with_text(h.utterance, texts)) for h in hypotheses]
        scores = score(hypotheses, config.normalizer, scores.seconds, config.error_unit)
    saved = None if first is None else json.loads((first / SCORES).read_text(encoding="utf-8"))
    first_scores = saved or scores.to_json()
    return Forgetting(scores=scores, hypotheses=hypotheses, first=first_scores, own=own)


def _with_text(utterance: Utterance, texts: dict[str, str]) -> Utterance:
    return replace(utterance, text=texts.get(utterance.id, ""))


def _shared_clips(evaluator: Evaluator, path: Path) -> list[Utterance]:
    """Return on all processes the clips that the main process chose at the first evaluation.

    Choosing scans a corpus, which may take any time.

    Raises:
        InputError: the corpus cannot be read, or differs from that of earlier evaluations.
    """
    evaluator.pause_watchdog()
    clips = run_on_main_process(evaluator.accelerator, lambda: _read_or_choose(evaluator, path))
    corpus = evaluator.config.forgetting_corpus
    if clips[0].corpus != corpus:
        raise InputError(
            f"eval.forgetting_corpus is {corpus}, but earlier evaluations of this run used "
            f"{clips[0].corpus}: set it back, or remove {path}"
        )
    return clips


def _read_or_choose(evaluator: Evaluator, path: Path) -> list[Utterance]:
    try:
        if not path.exists():
            clips = choose_clips(evaluator, path.parent.parent.parent)
            write_jsonl(path, (u.to_json() for u in clips))
        return [parse_row(row) for row in read_jsonl(path)]
    except OSError as error:
        raise InputError(str(error)) from error


def choose_clips(evaluator: Evaluator, runs: Path) -> list[Utterance]:
    """Choose clips of the corpus by a hash of their ids, independent of the corpus's order.

    Args:
        evaluator: its config names eval.forgetting_corpus.
        runs: folder of the cache of clip lengths, which all runs share.

    Raises:
        InputError: the corpus cannot be read.
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
