"""Simulate the time of an update on several GPUs. No GPU is used.

    python tests/benchmark/scaling.py --out=scaling.json

The updates and the passes of each process are those of a run: the plan of synthetic clips with
Common Voice's lengths, which BucketedBatchSampler shares among processes. Their times are modelled
for H100 SXM GPUs in bf16 with half-precision weights, and eight GPUs a node:

* A pass takes the longer one of its arithmetic, at ACHIEVED FLOP/s, and of launching its kernels.
  Then its gradient is added in float32, at the speed of memory.
* An update takes as long as the slowest process, the all-reduce, and UPDATE_BYTES of memory traffic
  a weight: casts, clipping and AdamW.
* The all-reduce begins after the last pass. It takes 2 (n - 1) / n * bytes / bandwidth (a ring),
  and a latency; in bf16 also the conversions, and a latency for each piece.

Data is assumed to be there in time. Stragglers, other jobs and slow links are left out.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from data.atomic_files import write_json
from data.batch import Shape
from data.config import DataConfig
from data.config_parser import parse_dataclass
from data.errors import plain_errors
from data.sampling.epoch_plan import Plan
from tests.benchmark.scaling_plan import Passes, make_corpus, passes_of_all
from tests.benchmark.synthetic import config_of
from trainer.distributed.collectives import PIECE
from trainer.half_precision.silence import HEAD_PADDING
from trainer.half_precision.weights import HalfWeights
from trainer.metrics.flops import WhisperFlops

ACHIEVED = 400e12  # FLOP/s, assumed: 40 % of the data sheet's peak
MEMORY = 3.35e12  # bytes/s, the data sheet's
OPERATIONS = 54  # of a layer in a pass, forward and backward: 1,300 in whisper-small's 24 layers
LAUNCH = 6.5e-6  # seconds an operation, assumed
GRADIENT_BYTES = 10  # of memory traffic a weight and pass: read bf16, read and write float32
UPDATE_BYTES = 50  # a weight: zeros 4, casts 6, norm and clipping 12, AdamW 28
AVERAGE_BYTES = {"fp32": 8, "bf16": 12}  # a weight: the division by n, or the conversions
# bytes/s that NCCL's tests report for 8 H100 over NVLink, and for a NIC of 400 Gb/s (46 to 48):
# https://github.com/NVIDIA/nccl-tests/issues/290
NVLINK, NIC = 476e9, 47e9
GPUS_PER_NODE = 8
LATENCY = {"node": 30e-6, "network": 100e-6}  # seconds of an all-reduce, assumed


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Simulate updates on several GPUs."""

    sizes: tuple[str, ...] = ("small", "large-v3")
    processes: tuple[int, ...] = (8, 64)  # one a GPU
    update_seconds: tuple[float, ...] = (480.0, 1920.0, 7680.0)  # of all processes
    nics: int = 8  # of 400 Gb/s, in a node
    updates: int = 40  # that are simulated
    out: str | None = None  # JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An update of one model on a number of GPUs: means over updates."""

    model: str
    processes: int
    update_seconds: float
    passes: float  # of a process
    imbalance: float  # FLOPs of the process with the most, above those of the mean
    milliseconds: dict[str, float]  # of an update, by the type of the all-reduce
    communication: dict[str, float]  # the share of the all-reduce
    efficiency: dict[str, float]  # time on one GPU / (processes * time)


class Model:
    """The times that depend on a model's size."""

    def __init__(self, size: str) -> None:
        """Read its shapes."""
        from transformers import WhisperForConditionalGeneration  # after data

        config = config_of(size, {})
        with torch.device("meta") as meta:
            whisper = WhisperForConditionalGeneration(config)
        weights = HalfWeights(whisper, torch.bfloat16, meta, head_padding=HEAD_PADDING)
        self.size, self.values = size, weights.gradient.numel()
        self.flops = WhisperFlops.from_config(config)
        self.launch = LAUNCH * OPERATIONS * (config.encoder_layers + config.decoder_layers)

    def seconds(self, shape: Shape) -> float:
        """Return the time of a pass."""
        computing = max(self.flops.batch(shape) / ACHIEVED, self.launch)
        return computing + self.values * GRADIENT_BYTES / MEMORY

    def all_reduce(self, processes: int, nics: int, dtype: str) -> float:
        """Return the seconds in which the gradient is averaged over processes."""
        if processes == 1:
            return 0.0
        inside = processes <= GPUS_PER_NODE
        bandwidth = NVLINK if inside else min(NVLINK, nics * NIC)
        pieces = -(-self.values // PIECE) if dtype == "bf16" else 1
        sent = self.values * (2 if dtype == "bf16" else 4)
        transfer = 2 * (processes - 1) / processes * sent / bandwidth
        latency = pieces * LATENCY["node" if inside else "network"]
        return transfer + latency + self.values * AVERAGE_BYTES[dtype] / MEMORY


def simulate(command: Command) -> Iterator[Row]:
    """Yield a row for each number of processes, length of an update, and size."""
    models = [Model(size) for size in command.sizes]
    for update_seconds in command.update_seconds:
        config = DataConfig(
            pad="bucket", update_seconds=update_seconds, update_tokens=round(16 * update_seconds)
        )
        plan = Plan.from_utterances(make_corpus(update_seconds, command.updates), config, seed=0)
        alone = passes_of_all(plan, config, 1, command.updates)
        for processes in command.processes:
            ranks = passes_of_all(plan, config, processes, command.updates)
            for model in models:
                yield row_of(model, alone, ranks, update_seconds, command.nics)


def row_of(
    model: Model, alone: list[Passes], ranks: list[Passes], update_seconds: float, nics: int
) -> Row:
    """Return the means over updates of a model; the arguments are of passes_of_all()."""
    work = _sums(ranks, model.flops.batch)
    fixed = model.values * UPDATE_BYTES / MEMORY
    slowest = _sums(ranks, model.seconds).max(axis=0).mean()
    averaging = {dtype: model.all_reduce(len(ranks), nics, dtype) for dtype in AVERAGE_BYTES}
    seconds = {dtype: slowest + fixed + time for dtype, time in averaging.items()}
    one = _sums(alone, model.seconds).mean() + fixed
    return Row(
        model=model.size,
        processes=len(ranks),
        update_seconds=update_seconds,
        passes=float(np.mean([len(shapes) for shapes in ranks[0]])),
        imbalance=float(work.max(axis=0).mean() / work.mean() - 1),
        milliseconds={dtype: float(1000 * time) for dtype, time in seconds.items()},
        communication={d: float(averaging[d] / time) for d, time in seconds.items()},
        efficiency={d: float(one / (len(ranks) * time)) for d, time in seconds.items()},
    )


def _sums(ranks: list[Passes], measure: Callable[[Shape], float]) -> NDArray[np.float64]:
    """Return the sum over the passes of each update. Shape: (processes, updates)."""
    return np.array([[sum(map(measure, shapes)) for shapes in updates] for updates in ranks])


def table_of(rows: list[Row], nics: int) -> Table:
    """Return the rows as a table; its caption says what was assumed."""
    table = Table(title="A simulation, not a measurement: fp32 / bf16 all-reduce")
    table.caption = (
        f"Assumed: H100 SXM, {ACHIEVED / 1e12:.0f} TFLOP/s achieved, {MEMORY / 1e12:.2f} TB/s of "
        f"memory, {OPERATIONS} launches of {1e6 * LAUNCH:.1f} us a layer and pass; NCCL "
        f"{NVLINK / 1e9:.0f} GB/s in a node of {GPUS_PER_NODE}, {nics} x {NIC / 1e9:.0f} GB/s "
        f"between nodes, {1e6 * LATENCY['node']:.0f} and {1e6 * LATENCY['network']:.0f} us of "
        "latency; no overlap, no waiting for data; synthetic clips of 1.5 to 11 s"
    )
    columns = "model GPUs update,s s/GPU passes imbalance ms communication efficiency"
    for name in columns.split():
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (row.model, row.processes, row.update_seconds)):
        table.add_row(
            row.model,
            str(row.processes),
            f"{row.update_seconds:.0f}",
            f"{row.update_seconds / row.processes:.1f}",
            f"{row.passes:.1f}",
            f"{row.imbalance:.0%}",
            " / ".join(f"{time:.0f}" for time in row.milliseconds.values()),
            " / ".join(f"{share:.0%}" for share in row.communication.values()),
            " / ".join(f"{share:.0%}" for share in row.efficiency.values()),
        )
    return table


def main() -> None:
    """Simulate, write and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        rows = list(simulate(command))
        if command.out is not None:
            write_json(Path(command.out), {"nics": command.nics, "rows": [*map(asdict, rows)]})
        Console(width=110).print(table_of(rows, command.nics))


if __name__ == "__main__":
    main()
