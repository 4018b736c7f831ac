"""The simulation of several GPUs uses the plan of a run, and its formulas are those it names."""

import json
from pathlib import Path

import pytest

from data.config import DataConfig
from data.sampling.epoch_plan import Plan
from tests.benchmark.scaling import LATENCY, MEMORY, NIC, NVLINK, Command, Model, simulate
from tests.benchmark.scaling_plan import make_corpus, passes_of_all
from tests.forked import run_module

PROGRAM = "tests/benchmark/scaling.py"


def test_processes_share_the_rows_of_an_update_and_make_equally_many_passes() -> None:
    config = DataConfig(pad="bucket", update_seconds=60.0)
    plan = Plan.from_utterances(make_corpus(60.0, 5), config, seed=0)
    (alone,), ranks = (passes_of_all(plan, config, processes, 5) for processes in (1, 4))
    for update, passes in enumerate(alone):
        shares = [rank[update] for rank in ranks]
        assert len({len(share) for share in shares}) == 1
        clips = sum(shape.rows for shape in passes)
        rows = sum(shape.rows for share in shares for shape in share)
        assert clips <= rows <= clips + 4  # and a row of silence for a process without clips


def test_an_all_reduce_takes_what_a_ring_takes() -> None:
    model = Model("tiny")
    assert model.all_reduce(1, 8, "fp32") == 0
    sent, division = 4 * model.values, 8 * model.values / MEMORY
    for processes, bandwidth, latency in ((8, NVLINK, "node"), (64, 8 * NIC, "network")):
        ring = 2 * (processes - 1) / processes * sent / bandwidth + LATENCY[latency]
        assert model.all_reduce(processes, 8, "fp32") == pytest.approx(ring + division)
    large = Model("large-v3")
    fp32, bf16 = (large.all_reduce(64, 1, dtype) for dtype in ("fp32", "bf16"))
    assert 1.8 < fp32 / bf16 < 2  # half of the traffic, besides conversions and latency


def test_nothing_is_faster_than_the_work_divided_by_processes() -> None:
    command = Command(
        sizes=("tiny", "large-v3"), processes=(2, 8), update_seconds=(60.0,), updates=5
    )
    rows = list(simulate(command))
    assert len(rows) == 4
    for row in rows:
        assert row.imbalance >= 0
        assert row.passes >= 1
        for dtype in ("fp32", "bf16"):
            assert 0 < row.efficiency[dtype] < 1
            assert 0 < row.communication[dtype] < 1


def test_the_program_writes_json_and_says_that_it_is_a_simulation(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    knobs = ("--sizes", "tiny", "--processes", "2", "--update_seconds", "30", "--updates=2")
    done = run_module(PROGRAM, *knobs, f"--out={out}")
    assert "A simulation, not a measurement" in done.stdout, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert row["processes"] == 2
