"""Runs trainer/main.py with injected faults: a kill, a memory limit, or out-of-memory errors.

WHISPER_LOOP_FAULTS says what, as JSON:

* kill, folder: the pass at which the process kills itself, once the folder holds a checkpoint.
* fraction, after: the share of the GPU's memory that it may take, from the pass `after` on.
* fail: messages of errors; every later update meets one of them, in a pass of several rows.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from trainer.main import main
from trainer.model import TrainingModule

PATIENCE = 30.0  # seconds to wait for a checkpoint
FIRST = 4  # pass that may fail: rehearsal has passes too


class FaultInjector:
    """Does what it was told, between the passes of a run."""

    def __init__(self, told: dict[str, Any]) -> None:
        """Take what to do, and hook into every pass."""
        self.told = told
        self.errors = list(told.get("fail", []))
        self.passes = 0
        self.forward = TrainingModule.forward
        if "fraction" in told and not told.get("after"):
            self.limit()

    def __call__(self, module: Any, features: Any, *rest: Any, **more: Any) -> Any:
        """Make a pass, or let it fail."""
        self.passes += 1
        if self.passes == self.told.get("kill"):
            self.kill()
        if self.passes == self.told.get("after"):
            self.limit()
        if self.errors and self.passes >= FIRST and self.passes % 2 == 0 and len(features) > 1:
            message = self.errors.pop(0)
            kind = torch.OutOfMemoryError if "Tried to allocate" in message else RuntimeError
            raise kind(message)
        return self.forward(module, features, *rest, **more)

    def kill(self) -> None:
        """Kill this process; a checkpoint is written beside training, and may not be whole yet."""
        until = time.monotonic() + PATIENCE
        while not any(Path(self.told["folder"]).glob("step-*")) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    def limit(self) -> None:
        """Take memory away; what is cached but free goes first, or nothing would be missed."""
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(self.told["fraction"])


if __name__ == "__main__":
    faults = FaultInjector(json.loads(os.environ["WHISPER_LOOP_FAULTS"]))
    TrainingModule.forward = lambda *a, **k: faults(*a, **k)  # type: ignore[method-assign]
    main()
