"""What a step has found: a JSON line at a time, so that a step that is cut off has lost nothing."""

import json
import os
from pathlib import Path
from typing import Any

ROWS = "WHISPER_LOOP_ROWS"  # environment variable: the file that rows are appended to
STEP = "WHISPER_LOOP_STEP"  # environment variable: the name of the running step
SMOKE = "WHISPER_LOOP_SMOKE"  # environment variable: 1 runs everything tiny, on a CPU


def record(row: str, **figures: Any) -> None:
    """Append a row of the running step; print it as well.

    Args:
        row: what was measured; unique within the step.
        figures: what was found.
    """
    told = {"step": os.environ.get(STEP, ""), "row": row, **figures}
    print(json.dumps(told), flush=True)
    if path := os.environ.get(ROWS):
        append(Path(path), told)


def append(path: Path, told: dict[str, Any]) -> None:
    """Append a line and see it written: steps beside each other share the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
        file.flush()
        os.fsync(file.fileno())


def smoke() -> bool:
    """Tell whether everything is to be tiny and on a CPU: to try the program, not the GPU."""
    return os.environ.get(SMOKE) == "1"
