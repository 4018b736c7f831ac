"""Error counts and transcripts equal those of other programs."""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jiwer
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import pipeline

from data.audio.decode import load_audio
from data.config import DataConfig
from data.corpora import read
from data.utterance import Utterance
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import score
from eval.metrics.wer import ErrorCounts, count_errors
from eval.whisper import load_whisper
from trainer.commands.tiny_model import TinyModelConfig, make_tiny_model

REAL = Path(os.environ.get("WHISPER_LOOP_REALDATA", "/nowhere"))
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "naïve",
    "café",
    "été",
    *"零一二三四",
]
CHANGES = ("keep",) * 8 + ("replace", "drop", "add")
SCLITE = shutil.which("sctk")


def pairs(count: int = 200, seed: int = 0) -> list[tuple[str, str]]:
    """Return sentences, and what is left of them after random edits; some of it is nothing."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        said = rng.choices(WORDS, k=rng.randint(1, 20))
        heard: list[str] = []
        for word in said:
            change = rng.choice(CHANGES)
            kept = {"keep": [word], "replace": [rng.choice(WORDS)], "drop": []}
            heard += kept.get(change, [word, rng.choice(WORDS)])
        found.append((" ".join(said), " ".join(heard)))
    return found


def distance(said: Sequence[str], heard: Sequence[str]) -> int:
    """Count edits as the textbook does (Wagner and Fischer, 1974)."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            best = min(row[j] + 1, row[j - 1] + 1, before + (one != other))
            before, row[j] = row[j], best
    return row[-1]


def total(unit: str) -> ErrorCounts:
    """Return our counts of all pairs."""
    return sum((count_errors(*pair, unit) for pair in pairs()), ErrorCounts())


@pytest.mark.parametrize(
    ("unit", "process"), [("word", jiwer.process_words), ("character", jiwer.process_characters)]
)
def test_totals_equal_those_of_jiwer(unit: str, process: Any) -> None:
    said, heard = map(list, zip(*pairs(), strict=True))
    theirs, ours = process(said, heard), total(unit)
    assert ours.substitutions == theirs.substitutions
    assert ours.deletions == theirs.deletions
    assert ours.insertions == theirs.insertions
    assert ours.units == theirs.hits + theirs.substitutions + theirs.deletions


def test_every_count_equals_the_levenshtein_distance() -> None:
    for said, heard in pairs():
        assert count_errors(said, heard, "word").edits == distance(said.split(), heard.split())
        assert count_errors(said, heard, "character").edits == distance(said, heard)


def test_scores_of_an_evaluation_equal_jiwer_on_its_rows() -> None:
    heard = [
        Hypothesis(
            utterance=Utterance(id=f"{n}", audio="", text=said, seconds=1.0, language="fr"),
            text=text,
        )
        for n, (said, text) in enumerate(pairs())
    ]
    scores = score(heard, "auto", 1.0)
    rows = [each.to_json(scores.compared[each.utterance.id]) for each in heard]
    said, text = ([row[f"{key}_normalized"] for row in rows] for key in ("reference", "hypothesis"))
    (group,) = scores.groups
    assert group.counts("wer").rate == scores.error == pytest.approx(jiwer.wer(said, text))
    assert group.counts("cer").rate == pytest.approx(jiwer.cer(said, text))
    assert sum(row["edits"] for row in rows) / sum(row["units"] for row in rows) == scores.error


@pytest.mark.skipif(SCLITE is None, reason="sclite (Debian's sctk) is not installed")
def test_counts_equal_those_of_nist_sclite(tmp_path: Path) -> None:
    for place, name in enumerate(("said", "heard")):
        lines = [f"{pair[place]} (one_{n:03d})" for n, pair in enumerate(pairs())]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["sctk", "sclite", "-s", "-i", "rm", "-e", "utf-8", "-o", "rsum", "stdout"]
    files = ["-r", "said", "trn", "-h", "heard", "trn"]  # of long names it makes nothing
    done = subprocess.run(
        [*command, *files], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith("| Sum"))
    sentences, words, _, substituted, deleted, inserted, edits, _ = map(
        int, re.findall(r"\d+", line)
    )
    ours = total("word")
    assert (sentences, words) == (200, ours.units)
    assert edits == substituted + deleted + inserted
    # it weighs a substitution as 4/3 of a deletion, so it may take a few more edits, never fewer
    assert ours.edits <= edits <= ours.edits * 1.005


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Return an Accelerator on the CPU that no other test shares, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def texts(
    model: str, rows: Sequence[Utterance], accelerator: Accelerator, most: int
) -> tuple[list[str], list[str]]:
    """Return what we hear, and what transformers' pipeline does: one beam, the same limit."""
    whisper = load_whisper(model)
    evaluator = Evaluator(
        accelerator=accelerator,
        whisper=whisper,
        data=DataConfig(workers=0),
        config=EvalConfig(max_length=most, tokens_per_second=1e6),
    )
    _, hypotheses = evaluator.evaluate(rows, "test")
    told = {"language": "en", "task": "transcribe"} if whisper.multilingual else {}
    hear = pipeline(
        "automatic-speech-recognition",
        model=whisper.model,
        tokenizer=whisper.processor.tokenizer,
        feature_extractor=whisper.processor.feature_extractor,
        device="cpu",
    )
    options = {"num_beams": 1, "max_length": most, "max_new_tokens": None, **told}
    theirs = [
        hear({"raw": load_audio(u).numpy(), "sampling_rate": 16_000}, generate_kwargs=dict(options))
        for u in rows
    ]
    return [h.text for h in hypotheses], [each["text"].strip() for each in theirs]


def test_transformers_pipeline_hears_the_same(
    accelerator: Accelerator, tone_corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "talkative"  # weights so large that each clip gets a text of its own
    make_tiny_model(
        TinyModelConfig(
            out=str(out),
            corpus=(str(tone_corpus),),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            heads=2,
            init_std=0.3,
        )
    )
    rows = list(read(DataConfig(corpus=(str(tone_corpus),)), "test"))
    ours, theirs = texts(str(out), rows, accelerator, 20)
    assert ours == theirs
    assert len(set(ours)) >= 4  # else the comparison would say little


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="WHISPER_LOOP_REALDATA names no folder")
def test_transformers_pipeline_hears_the_same_in_real_speech(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    model = tmp_path / "tiny.en"
    subprocess.run([sys.executable, REAL / "make_whisper.py", "tiny.en", model], check=True)
    rows = list(read(DataConfig(corpus=(str(REAL / "joined/en"),)), "test"))
    ours, theirs = texts(str(model), [u for u in rows if u.seconds < 30], accelerator, 225)
    assert ours == theirs
