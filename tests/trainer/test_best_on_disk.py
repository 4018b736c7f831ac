"""A model becomes the best one only if its checkpoint is on disk."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_rewind import LOOKS, best_at, state_of
from trainer.publish.export import exported_step

Losses = Callable[[Path], dict[int, str]]


def full_at(step: int, writes: tuple[str, ...], best: tuple[int, ...]) -> None:
    """Have the disk full for a while: for one update's checkpoint, for one's export, or both."""
    import trainer.checkpoint.writer
    import trainer.validation
    from trainer.checkpoint.snapshot import Snapshot

    best_at(*best)
    trainer.checkpoint.writer.RETRY_SECONDS = (0.0,)
    write, export = Snapshot.write, trainer.validation.export

    def written(self: Snapshot, folder: Path) -> None:
        if "checkpoint" in writes and folder.name.endswith(f"{step:08d}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        write(self, folder)

    def exported(whisper: Any, folder: Path, facts: dict[str, Any], precision: Any) -> None:
        if facts["step"] == step and refusals:
            refusals.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        export(whisper, folder, facts, precision)

    refusals = [1] if "export" in writes else []
    Snapshot.write = written  # type: ignore[method-assign]
    trainer.validation.export = exported


def both() -> None:
    """Refuse the checkpoint and the export of update 4."""
    full_at(4, ("checkpoint", "export"), best=(4, 8))


def last() -> None:
    """Refuse all of update 4, the only one that is better."""
    full_at(4, ("checkpoint", "export"), best=(4,))


def only_export() -> None:
    """Refuse the export of update 4 once."""
    full_at(4, ("export",), best=(4,))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_model_whose_checkpoint_the_disk_refused_is_not_the_best(
    trainer: Any, tmp_path: Path, processes: int
) -> None:
    run = tmp_path / "run"
    done = trainer(run, *LOOKS, sabotage=both, processes=processes)
    assert "NO CHECKPOINT of update 4" in done.output
    assert "update 4 is better, but its checkpoint could not be written" in done.output
    state = state_of(run, 8)
    assert (state["best_step"], state["evaluated_step"]) == (8, 8)
    assert exported_step(run / "model") == 8
    assert "Traceback" not in done.output


def test_where_none_was_written_the_last_one_is_the_model(trainer: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(run, *LOOKS, sabotage=last)
    assert state_of(run, 8)["best_error"] is None
    assert exported_step(run / "model") == 8


def test_an_export_that_failed_is_made_up_for_at_the_end(
    trainer: Any, tmp_path: Path, losses: Losses
) -> None:
    run = tmp_path / "run"
    done = trainer(run, *LOOKS, sabotage=only_export)
    assert "could not be written" in done.output
    assert state_of(run, 8)["best_step"] == 4
    assert exported_step(run / "model") == 4
    facts = json.loads((run / "status.json").read_text(encoding="utf-8"))
    assert facts["status"] == "finished"
    last_step = max(losses(run))
    assert last_step == 8
