"""How fast one size of Whisper trains: first and later visits of a shape, kernels, MFU.

    python tests/benchmark/gpu/speed.py --size=small

Clips of 5 s with random weights, made on the device: with layers compiled or not, with weights cast
once an update or in every pass, with and without CUDA graphs, the states of silence and cuDNN's
attention. A visit is an update of one shape: its first may have to plan kernels, its second should
cost what its third costs.
"""

import gc
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import torch
from gpu.model import fresh_accelerator, noise_batch, random_whisper, wait
from gpu.rows import record, smoke
from measure import Shapes

from data.batch import Batch
from data.config import MAX_SECONDS_PER_FORWARD
from data.config_parser import parse_dataclass
from data.errors import InputError, plain_errors
from data.log_mel import CHUNK_SECONDS
from eval.device import is_out_of_memory
from eval.whisper import Whisper
from trainer.distributed.build_engine import build_engine
from trainer.distributed.engine import Engine
from trainer.metrics.flops import WhisperFlops, peak_flops
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.step import train_step

CLIP_SECONDS = 4.96  # 496 frames, which the plan leaves as they are: 96 clips fill a pass
WORDS = 20  # in each clip
AUDIO_SECONDS = (120, 480, 1920)  # an update
# name, whether cuDNN's attention is used, and the model's knobs; the default first
VARIANTS: tuple[tuple[str, bool, dict[str, Any]], ...] = (
    ("compiled", False, {}),
    ("cast once", False, {"compile": False}),
    ("autocast", False, {"cast_once": False}),
    ("compiled, CUDA graphs", False, {"cuda_graphs": True}),
    ("cast once, CUDA graphs", False, {"compile": False, "cuda_graphs": True}),
    ("compiled, no silence", False, {"silence_states": False}),
    ("compiled, cuDNN", True, {}),
)
STOCK = {"cast_once": False, "silence_states": False}  # as other trainers compute
PADDED_CLIPS = (8, 24)  # of 30 s with stock attention: what other trainers compute
FEWEST = 8  # clips a pass is halved to, where memory runs out
ATTENTION = ("attn", "attention", "sdpa", "fmha", "flash", "cudnn")  # in names of its kernels


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Measure one size."""

    size: Shapes = "small"


@dataclass(kw_only=True, slots=True)
class Bench:
    """A model that is trained, in one of the ways to compute."""

    device: torch.device
    whisper: Whisper
    flops: WhisperFlops
    peak: float  # FLOP/s
    batches: dict[tuple[int, float], Batch] = field(default_factory=dict)  # by rows and seconds
    failed: list[str] = field(default_factory=list)  # rows that ended in an error
    engine: Engine | None = None  # of one way to compute

    @classmethod
    def of(cls, size: str, device: torch.device) -> "Bench":
        """Make the model."""
        whisper = random_whisper(size, device)
        flops, (peak, _) = WhisperFlops.from_config(whisper.model.config), peak_flops(device)
        return cls(device=device, whisper=whisper, flops=flops, peak=peak)

    def prepare(self, row: str, **knobs: Any) -> None:
        """Train the same model in another way, and record how long that takes to prepare."""
        self.engine = None
        gc.collect()  # a model and its graphs refer to each other
        torch.cuda.empty_cache()
        began = time.perf_counter()
        accelerator, config = fresh_accelerator(self.device, "bf16"), ModelConfig(**knobs)
        module = prepare_training(self.whisper, config).train()
        printed: list[str] = []
        self.engine = build_engine(accelerator, module, config, OptimConfig(), printed.append)
        wait(self.device)
        record(row, prepared_s=round(time.perf_counter() - began, 1), warnings=printed)

    def batch(self, rows: int, seconds: float) -> Batch:
        """Return a pass; the same one every time."""
        if (rows, seconds) not in self.batches:
            made = noise_batch(self.whisper, self.device, rows, seconds, words=WORDS)
            self.batches[rows, seconds] = made
        return self.batches[rows, seconds]

    def update(self, passes: Sequence[Batch]) -> tuple[float, float]:
        """Return the seconds of an update, and those until all of it was launched."""
        assert self.engine is not None
        tokens = sum(sum(batch.tokens) for batch in passes)
        wait(self.device)
        started = time.perf_counter()
        train_step(self.engine, passes, tokens=tokens, max_norm=1.0)
        launched = time.perf_counter() - started
        wait(self.device)
        return time.perf_counter() - started, launched


def main() -> None:
    """Measure everything, the default first; a row is told as soon as it is known."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        device = torch.device("cpu" if smoke() else "cuda")
        audio, padded, clip = AUDIO_SECONDS, PADDED_CLIPS, CLIP_SECONDS
        if smoke():
            audio, padded, clip = (2, 4), (), 0.96
        bench = Bench.of(command.size, device)
        for name, cudnn, knobs in VARIANTS[: 3 if smoke() else None]:
            bench.prepare(f"prepared, {name}", **knobs)
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            for seconds in audio:
                measure(bench, f"{seconds} s, {name}", max(1, round(seconds / clip)), clip)
            count_kernels(bench, f"kernels, {name}", max(1, round(audio[0] / clip)), clip)
        bench.prepare("prepared, padded", **STOCK)
        for rows in padded:
            measure(bench, f"{rows} clips padded to 30 s", rows, float(CHUNK_SECONDS))
        if bench.failed:
            raise InputError(f"could not be measured: {'; '.join(bench.failed)}")


def measure(bench: Bench, row: str, clips: int, seconds: float) -> None:
    """Tell what an update costs; passes are halved where they do not fit in memory."""
    padded = seconds == CHUNK_SECONDS
    rows = clips if padded else min(clips, int(MAX_SECONDS_PER_FORWARD / seconds))
    while True:
        batch = bench.batch(rows, seconds)
        count = max(1, clips // rows)
        passes = [replace(batch, is_last=i == count - 1) for i in range(count)]
        try:
            record(row, **visits(bench, passes, padded=padded))
        except RuntimeError as error:
            if not is_out_of_memory(error):  # one backend's: others may still be measured
                bench.failed.append(row)
                record(row, error=str(error).split("\n")[0][:300])
                return
            assert bench.engine is not None
            bench.engine.discard_gradients()
            bench.batches.clear()
            del batch, passes
            torch.cuda.empty_cache()
            record(f"{row}, {rows} clips a pass", out_of_memory=True)
            if rows <= FEWEST:
                return
            rows //= 2
            continue
        return


def visits(bench: Bench, passes: Sequence[Batch], *, padded: bool) -> dict[str, Any]:
    """Return the figures of a shape's first visits, and of an update once it is known."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, second, third = (bench.update(passes)[0] for _ in range(3))
    more = 0 if smoke() else 5 if len(passes) == 1 else 1
    later = [bench.update(passes) for _ in range(more)]
    taken = statistics.median([third, *(seconds for seconds, _ in later)])
    clips = sum(len(batch.ids) for batch in passes)
    heard = CLIP_SECONDS if padded else passes[0].seconds[0]  # useful: what is not padding
    useful = bench.flops.train([(heard, passes[0].tokens[0])]) * clips
    return {
        "clips": clips,
        "passes": len(passes),
        "first_ms": round(1e3 * first, 1),
        "second_ms": round(1e3 * second, 1),
        "ms": round(1e3 * taken, 1),
        "second_over_third": round(second / third, 2),
        "launched_ms": round(1e3 * later[-1][1], 1) if later else None,
        "clips_per_second": round(clips / taken, 1),
        "mfu": round(useful / taken / bench.peak, 4),
        "gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)
        if bench.device.type == "cuda"
        else None,
    }


def count_kernels(bench: Bench, row: str, rows: int, seconds: float) -> None:
    """Tell how many kernels an update of one pass launches, and which attend."""
    from torch.profiler import profile

    with profile(acc_events=True) as found:
        bench.update([bench.batch(rows, seconds)])
    cuda = torch.autograd.DeviceType.CUDA
    events = [  # what the phases of an update are called on the GPU is no kernel
        e
        for e in found.events() or ()
        if e.device_type == cuda and not getattr(e, "is_user_annotation", False)
    ]
    names = sorted({e.name[:70] for e in events if any(a in e.name.lower() for a in ATTENTION)})
    record(
        row,
        kernels=len(events),
        ms=round(sum(e.device_time_total for e in events) / 1e3, 1),
        attention=names[:8],
    )


if __name__ == "__main__":
    main()
