"""Forgetting is scored on the same clips in all evaluations of a run."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data.atomic_files import read_jsonl
from data.config import DataConfig
from data.corpora import read
from data.errors import InputError
from data.screening.scan_cache import Measurement
from eval.config import EvalConfig
from eval.evaluate import Evaluator
from eval.metrics.hypothesis import Hypothesis
from eval.probes.forgetting import CHOSEN
from eval.probes.run_probes import ProbeResults, run_probes
from eval.report.summary import Evaluation, forgetting_rows
from eval.whisper import load_whisper


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread, with an Accelerator that no other test shares."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(before)


@pytest.fixture
def evaluator(blank_model: Path, tone_corpus: Path, other: Path) -> Evaluator:
    """Return an evaluator of English that measures forgetting of Mandarin."""
    return Evaluator(
        accelerator=Accelerator(cpu=True),
        whisper=load_whisper(str(blank_model)),
        data=DataConfig(corpus=(str(tone_corpus),), workers=0),
        config=EvalConfig(
            max_length=8, forgetting_corpus=str(other), forgetting_clips=4, non_speech=False
        ),
    )


@pytest.fixture
def other(tone_corpus: Path, tmp_path: Path) -> Path:
    """Return a corpus in another language: the test split of tones, as Mandarin."""
    rows = [
        {"path": u.audio, "text": "五", "language": "zh", "id": u.id, "split": "test"}
        for u in read(DataConfig(corpus=(str(tone_corpus),)), "test")
    ]
    path = tmp_path / "other" / "all.jsonl"
    path.parent.mkdir()
    write(path, rows)
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a manifest; its audio lies beside it."""
    for row in rows:
        target = path.parent / Path(row["path"]).name
        if not target.exists():
            target.write_bytes(Path(row["path"]).read_bytes())
    told = [row | {"path": Path(row["path"]).name} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")


def probe(evaluator: Evaluator, run: Path, step: int, **how: bool) -> ProbeResults:
    """Run the probes of a dev evaluation, and save them."""
    at = run / "eval" / f"step-{step:08d}" / "dev"
    found = run_probes(
        evaluator, empty_evaluation(), at, **{"forgetting": True, "true_length": True, **how}
    )
    found.save(at, step)
    return found


def empty_evaluation() -> list[Hypothesis]:
    """Return the scores of an empty evaluation."""
    return []


def change(evaluator: Evaluator, seed: int) -> None:
    """Change the model's weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in evaluator.whisper.model.model.decoder.parameters():
            weight += 0.5 * torch.randn(weight.shape, generator=generator)


def test_all_evaluations_score_the_same_clips(
    evaluator: Evaluator, other: Path, tmp_path: Path
) -> None:
    first = probe(evaluator, tmp_path / "run", 0)
    rows = list(read_jsonl(tmp_path / "run" / "eval" / CHOSEN))
    assert len(rows) == 4
    lines = other.read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    again = probe(evaluator, tmp_path / "other_run", 0)  # whatever order the corpus is in
    assert first.forgetting is not None
    assert again.forgetting is not None
    ids = {h.utterance.audio for h in first.forgetting.hypotheses}
    assert {h.utterance.audio for h in again.forgetting.hypotheses} == ids
    other.write_text("", encoding="utf-8")  # a run does not ask again
    later = probe(evaluator, tmp_path / "run", 20)
    assert later.forgetting is not None
    assert {h.utterance.audio for h in later.forgetting.hypotheses} == ids
    names = {path.parent.parent.name for path in tmp_path.glob("run/eval/*/forgetting/scores.json")}
    assert names == {"step-00000000", "step-00000020"}


def test_forgetting_is_compared_with_the_first_evaluation(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    first = probe(evaluator, tmp_path, 0)
    assert first.forgetting is not None
    was = first.forgetting.scores.error
    (row,) = forgetting_rows(first)
    assert (row.split, row.language, row.change) == ("forgetting", "zh", "")
    assert row.error.startswith(f"CER {100 * was:.2f} %")
    assert first.metrics() == {"meters/forgetting": was}
    assert first.forgetting.warnings() == []
    change(evaluator, 1)
    second = probe(evaluator, tmp_path, 20)
    assert second.forgetting is not None
    now = second.forgetting.scores.error
    assert now != was
    # what was measured before a first evaluation of dev is kept is not compared
    (row,) = forgetting_rows(replace(second, first={}))
    assert row.change == f"{100 * (now - was):+.2f} points"


@pytest.mark.parametrize(
    ("was", "now", "warned"),
    [
        (0.1, 0.1, False),
        (0.1, 0.109, False),
        (0.1, 0.12, True),
        (0.0, 0.009, False),
        (0.0, 0.02, True),
    ],
)
def test_a_warning_needs_an_increase_of_a_tenth_and_a_point(
    was: float, now: float, warned: bool, evaluator: Evaluator, tmp_path: Path
) -> None:
    found = probe(evaluator, tmp_path, 0).forgetting
    assert found is not None
    grown = replace(found, first={"error": was}, scores=replace(found.scores, error=now)).warnings()
    assert bool(grown) is warned
    if warned:
        assert grown[0].startswith(f"forgetting: {was:.1%} → {now:.1%}: lower optim.lr")


def test_without_transcripts_the_first_hypotheses_are_the_references(
    evaluator: Evaluator, other: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in other.read_text(encoding="utf-8").splitlines()]
    other.write_text("".join(json.dumps(row | {"text": ""}) + "\n" for row in rows))
    first = probe(evaluator, tmp_path, 0).forgetting
    assert first is not None
    assert first.own
    assert first.scores.error == 0.0
    assert all(h.utterance.text == h.text for h in first.hypotheses)
    change(evaluator, 1)
    results = probe(evaluator, tmp_path, 20)
    second = results.forgetting
    assert second is not None
    assert [h.utterance.text for h in second.hypotheses] == [h.text for h in first.hypotheses]
    assert second.scores.error > 0
    saved = {"error": 0.5, "true_length": True, "languages": {}, "long": {}, "corpora": {}}
    notes = Evaluation.of("dev", saved, results, {}).notes
    assert "forgetting: the references are the texts of the first evaluation" in notes


def test_another_corpus_in_the_same_run_is_an_input_error(
    evaluator: Evaluator, tone_corpus: Path, tmp_path: Path
) -> None:
    probe(evaluator, tmp_path, 0)
    config = replace(evaluator.config, forgetting_corpus=str(tone_corpus))
    with pytest.raises(InputError, match=r"forgetting_corpus is .* but earlier evaluations"):
        probe(replace(evaluator, config=config), tmp_path, 20)


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"forgetting_corpus": "/no/such"}, "/no/such: no such folder"),
        ({"forgetting_split": "other"}, "other"),
        ({"forgetting_language": "xx"}, "'xx'"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_an_input_error(
    knobs: dict[str, Any], sentence: str, evaluator: Evaluator, tmp_path: Path
) -> None:
    config = replace(evaluator.config, **knobs)
    with pytest.raises(InputError, match=sentence):
        probe(replace(evaluator, config=config), tmp_path, 0)
    assert not (tmp_path / "eval" / CHOSEN).exists()


def test_without_forget_corpus_nothing_is_scored(evaluator: Evaluator, tmp_path: Path) -> None:
    unnamed = replace(evaluator, config=replace(evaluator.config, forgetting_corpus=None))
    assert probe(unnamed, tmp_path, 0).forgetting is None
    assert probe(evaluator, tmp_path, 0, forgetting=False).forgetting is None
    assert not (tmp_path / "eval").exists()


def test_a_run_prints_hallucination_noise_and_forgetting(
    trainer: Any, other: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = trainer(
        run,
        "--data.dev_split=dev",
        "--data.test_split=test",
        "--loop.max_steps=2",
        "--loop.eval_every=1",
        "--eval.max_length=4",
        "--eval.non_speech=True",
        "--eval.pad=bucket",
        f"--eval.forgetting_corpus={other}",
        "--eval.forgetting_language=en",
        "--eval.forgetting_clips=2",
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    forgotten = [row["step"] for row in rows if "dev/meters/forgetting" in row]
    assert forgotten == [0, 1, 2]
    assert len([row for row in rows if "test/meters/noise" in row]) == 2
    assert all("dev/meters/loops" in row for row in rows if "dev/error" in row)
    lines = [line.split() for line in done.output.splitlines()]
    for start, times in {"dev en": 3, "forgetting en": 3, "test en": 2}.items():
        assert len([line for line in lines if line[:2] == start.split()]) == times
    assert [line[:4] for line in lines].count(["test", "no", "speech", "12"]) == 2
    told = json.loads((run / "eval" / "step-00000000" / "test" / "scores.json").read_text())
    assert told["meters"]["noise"]["clips"] == 12
    assert (run / "eval" / "step-00000002" / "forgetting" / "utterances.jsonl").exists()


def measure_slowly(notes: Path) -> None:
    """Make the scan of the other corpus longer than the timeouts of collective and watchdog."""
    from data.screening import durations as scanning
    from trainer.process.watchdog import Watchdog

    start, measure, seconds = torch.distributed.init_process_group, scanning.measure, 6.0
    limit = timedelta(seconds=seconds)
    torch.distributed.init_process_group = lambda *a, **k: start(*a, **{**k, "timeout": limit})
    Watchdog.first_seconds = property(lambda _: seconds)  # type: ignore[method-assign, assignment]

    def slow(audio: str, check: str) -> Measurement:
        if Path(audio).parent.name == "other":
            time.sleep(1.4)
            with notes.open("a") as file:
                file.write(f"{audio}\n")
        return measure(audio, check)

    scanning.measure = slow


def test_a_slow_scan_of_the_other_corpus_is_waited_for(
    trainer: Any, other: Path, tmp_path: Path
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    knobs = (
        f"--eval.forgetting_corpus={other}",
        "--eval.forgetting_language=en",
        "--eval.forgetting_clips=2",
    )
    quick = ("--eval.max_length=4", "--eval.pad=bucket", "--loop.max_steps=1")
    trainer(
        run,
        *knobs,
        *quick,
        "--data.dev_split=dev",
        processes=2,
        sabotage=partial(measure_slowly, notes),
    )
    assert len(notes.read_text().splitlines()) == 6  # 8.4 s
    assert (run / "eval" / "step-00000000" / "forgetting" / "scores.json").exists()
