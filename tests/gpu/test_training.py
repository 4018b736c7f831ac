"""A whole run in half precision, from files to scores."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.rows import record, smoke

from data.atomic_files import read_jsonl

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

UPDATES = 12 if smoke() else 60


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_loss_falls_and_nothing_is_nan_in_half_precision(
    precision: str, device: torch.device, runs: Any, tmp_path: Path
) -> None:
    if precision == "fp16" and device.type != "cuda":
        pytest.skip("fp16 needs a GPU")
    run = tmp_path / precision
    runs(
        run,
        f"--precision={precision}",
        f"--loop.max_steps={UPDATES}",
        "--data.dev_split=dev",
        "--data.test_split=test",
    )
    losses = runs.losses(run)
    third = len(losses) // 3
    first, last = (sum(part) / third for part in (losses[:third], losses[-third:]))
    failed = run / "nonfinite.jsonl"
    skipped = len(list(read_jsonl(failed))) if failed.is_file() else 0
    record(
        precision, updates=len(losses), first_loss=first, last_loss=last, skipped_updates=skipped
    )
    assert all(map(math.isfinite, losses)), f"losses should be finite, found {losses}"
    assert last < first - 0.05, f"the loss should fall, found {first:.3f} and later {last:.3f}"
    for step in (0, UPDATES):
        scores = json.loads((run / f"eval/step-{step:08d}/test/scores.json").read_text())
        assert math.isfinite(scores["error"]), f"update {step}: error is {scores['error']}"
    found = [row for row in read_jsonl(run / "metrics.jsonl") if "dev/loss" in row]
    assert found, "an evaluation should tell dev's loss, found none"
    assert all(math.isfinite(row["dev/loss"]) for row in found)
