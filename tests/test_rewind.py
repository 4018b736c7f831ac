"""A resume from an older checkpoint: its best model is restored, later results are renamed."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trainer.publish.export import exported_step

LOOKS = (
    "--data.dev_split=dev",
    "--loop.max_steps=8",
    "--loop.eval_every=4",
    "--checkpoint.save_every=2",
    "--eval.max_length=4",
)
Losses = Callable[[Path], dict[int, str]]


def best_at(*steps: int) -> None:
    """Make these updates the best so far, and no others."""
    import trainer.validation
    from trainer.best_model import Verdict

    def chosen(_best: Path, _challenger: Path, _error: float, state: Any) -> Verdict:
        return Verdict(better=state.step in steps, reason="as told")

    trainer.validation.compare_with_best = chosen  # type: ignore[assignment]


def state_of(run: Path, step: int) -> dict[str, Any]:
    """Return the progress that a checkpoint holds."""
    path = run / "checkpoints" / f"step-{step:08d}" / "state.json"
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["state"]
    return state


def damage(run: Path, step: int) -> None:
    """Flip a byte of a checkpoint's optimizer."""
    path = run / "checkpoints" / f"step-{step:08d}" / "optimizer.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


@pytest.fixture
def whole(trainer: Any, tmp_path: Path) -> Path:
    """Return a finished run whose best model is not its last, and is named by all checkpoints."""
    run = trainer.reference(*LOOKS, sabotage=partial(best_at, 4))
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_what_a_kept_checkpoint_names_as_the_best_is_kept(whole: Path) -> None:
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000006", "step-00000008"]
    assert [state_of(whole, step)["best_step"] for step in (4, 6, 8)] == [4, 4, 4]


def test_a_checkpoint_before_a_new_best_still_has_the_old_one(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, *LOOKS, sabotage=partial(best_at, 4, 8))
    assert (state_of(run, 6)["best_step"], state_of(run, 8)["best_step"]) == (4, 8)
    damage(run, 8)
    done = trainer(run, *LOOKS, "--resume=auto", sabotage=partial(best_at, 4, 8))
    assert "step-00000008 is skipped" in done.output
    assert "resuming after update 6" in done.output
    assert exported_step(run / "model") == 8


@pytest.mark.parametrize("resume", ["auto", "checkpoints/step-00000006"])
def test_a_best_model_that_is_gone_is_told_and_the_run_goes_on(
    trainer: Any, whole: Path, losses: Losses, resume: str
) -> None:
    before = losses(whole)
    for path in (whole / "checkpoints" / "step-00000004").iterdir():
        path.unlink()  # as runs of before left it
    (whole / "checkpoints" / "step-00000004").rmdir()
    (whole / "model").rename(whole / "elsewhere")
    resume = resume if resume == "auto" else str(whole / resume)
    if resume == "auto":
        damage(whole, 8)
    done = trainer(whole, *LOOKS, f"--resume={resume}", sabotage=partial(best_at, 8))
    assert "the best model so far, of update 4, is lost" in done.output
    assert losses(whole) == before
    assert exported_step(whole / "model") == 8
    again = trainer(whole, *LOOKS, "--resume=auto", sabotage=partial(best_at, 8))
    assert "resuming after update 8" in again.output


def test_nothing_is_set_aside_where_the_checkpoint_is_refused(trainer: Any, whole: Path) -> None:
    found = sorted(str(path) for path in whole.rglob("*") if path.name != "status.json")
    older = f"--resume={whole / 'checkpoints' / 'step-00000006'}"
    done = trainer(whole, *LOOKS, older, "--optim.lr=1e-5", check=False)
    assert done.returncode == 2
    assert sorted(str(p) for p in whole.rglob("*") if p.name != "status.json") == found


def test_the_evaluations_of_a_future_that_is_given_up_are_set_aside(
    trainer: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tested = (*LOOKS, "--data.test_split=test")
    trainer(run, *tested, sabotage=partial(best_at, 4, 8))
    assert (run / "eval" / "step-00000008" / "test" / "scores.json").is_file()
    older = f"--resume={run / 'checkpoints' / 'step-00000006'}"
    more = ("--loop.max_steps=7", "--loop.eval_every=100")  # one update more, and no better
    done = trainer(run, *tested, older, *more, sabotage=partial(best_at))
    assert not (run / "eval" / "step-00000008").exists()
    assert len(list((run / "eval").glob("replaced-*-step-00000008"))) == 1
    assert exported_step(run / "model") == 4
    after = json.loads((run / "eval/step-00000004/test/scores.json").read_text(encoding="utf-8"))
    assert after["step"] == 4
    assert "step-00000008/" not in (run / "report.html").read_text(encoding="utf-8")
    assert "test, before and after training" in done.output


@pytest.mark.parametrize("harm", ["facts cut off", "a flipped bit", "no weights"])
def test_a_damaged_export_is_made_anew_from_the_checkpoint(
    trainer: Any, whole: Path, harm: str
) -> None:
    weights, facts = whole / "model" / "model.safetensors", whole / "model" / "whisper_loop.json"
    before = weights.read_bytes()
    if harm == "facts cut off":
        facts.write_text(facts.read_text()[:20])
    elif harm == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    trainer(whole, *LOOKS, "--resume=auto", sabotage=partial(best_at, 4))
    assert weights.read_bytes() == before
    assert exported_step(whole / "model") == 4
