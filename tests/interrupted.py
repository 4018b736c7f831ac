"""A copy of a finished run, as a power failure on the way would have left it."""

import json
import shutil
from pathlib import Path

ROWS = ("metrics.jsonl", "losses.jsonl")


def interrupted(whole: Path, copy: Path, *, after: int) -> Path:
    """Copy a finished run without all that it wrote after an update.

    To resume the copy costs less than to train up to that update once more.

    Args:
        whole: folder of the run.
        copy: where the copy is made.
        after: the update, of which the run has a checkpoint.
    """
    shutil.copytree(whole, copy)
    (copy / "status.json").unlink()
    shutil.rmtree(copy / "model")
    for folder in (*copy.glob("checkpoints/step-*"), *copy.glob("eval/step-*")):
        if int(folder.name[-8:]) > after:
            shutil.rmtree(folder)
    for rows in (copy / name for name in ROWS):
        lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
        rows.write_text("".join(each for each in lines if json.loads(each)["step"] <= after))
    return copy
