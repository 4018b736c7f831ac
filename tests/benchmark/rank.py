"""What one process of ranks.py does: it says that it is ready, waits for a line, and tells."""

import ctypes
import gc
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, sys.argv[1])  # the code that is measured

import accelerate
import torch

import data.manifest
from data.config import DataConfig
from data.sampling.bucketed_sampler import BucketedBatchSampler
from data.sampling.epoch_plan import Plan
from eval.whisper import load_whisper
from trainer.checkpoint.fixed_knobs import training_knobs
from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation
from trainer.distributed import accelerator as device
from trainer.distributed.build_engine import build_engine
from trainer.metrics.clip_losses import ClipLosses
from trainer.metrics.flops import WhisperFlops
from trainer.metrics.recorder import NullRecorder
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.state import TrainState

WHAT, FOLDER, MODEL = sys.argv[2:5]
Told = dict[str, Any]


def main() -> None:
    """Get ready, wait, measure, tell, and keep what is held until another line comes."""
    doing = {"manifest": manifest, "rewind": rewind, "plain": load, "fsdp": load, "save": save}
    held = doing[WHAT]()
    give_back()
    print("ready", flush=True)
    sys.stdin.readline()
    began, told = time.process_time(), held()
    told["computing"] = time.process_time() - began
    give_back()
    print(json.dumps(told), flush=True)
    sys.stdin.readline()


def give_back() -> None:
    """Return freed memory to the system: what is measured next would be served from it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def timed(told: Told, name: str, work: Callable[[], Any]) -> Any:
    """Do some work, and note the seconds."""
    began = time.perf_counter()
    result = work()
    told[name] = time.perf_counter() - began
    return result


def manifest() -> Callable[[], Told]:
    """Read a manifest, plan an epoch, and look for its worst pass."""
    whisper = WhisperFlops(
        d_model=1280, encoder_layers=32, decoder_layers=32, n_mels=128, vocabulary=51866
    )
    config, kept = DataConfig(update_seconds=960.0, update_tokens=32_768), []

    def work() -> Told:
        told: Told = {}
        path = Path(FOLDER) / "manifest.jsonl"
        frozen = timed(told, "read", lambda: data.manifest.Manifest.read(path))
        plan = timed(told, "plan", lambda: Plan.from_utterances(frozen.train, config, seed=0))
        updates = timed(told, "epoch", lambda: plan.updates(0))
        sampler = BucketedBatchSampler(
            plan, config, updates=0, world_size=8, pass_cost=whisper.activation_bytes
        )
        worst = timed(told, "worst", sampler.largest)
        kept.extend((frozen, plan, updates))
        return told | {"updates": len(updates), "worst_pass": list(worst)}

    return work


def rewind() -> Callable[[], Told]:
    """Go back to the update before the last."""
    losses, told = ClipLosses(Path(FOLDER), accelerate.Accelerator(cpu=True), NullRecorder()), {}
    last = json.loads((Path(FOLDER) / "losses.json").read_text())["updates"]

    def work() -> Told:
        timed(told, "rewind", lambda: losses.rewind(last - 1))
        return told

    return work


def build() -> tuple[Checkpoints, Any, Any]:
    """Return a model to train and its checkpoints, as main() builds them."""
    if WHAT == "fsdp":
        device.Accelerator = stand_in().Fsdp
    older = "folder" in inspect.signature(device.build_accelerator).parameters  # of --code=
    folder = [Path(FOLDER)] if older else []
    accelerator = device.build_accelerator(
        *folder, precision="fp32", deterministic=False, trackers=()
    )
    module = prepare_training(load_whisper(MODEL), ModelConfig())
    engine = build_engine(accelerator, module, ModelConfig(), OptimConfig(), print)
    rotation = CheckpointRotation(Path(FOLDER) / "checkpoints", CheckpointConfig())
    return Checkpoints(rotation, accelerator, print), engine.model, engine.optimizer


def stand_in() -> ModuleType:
    """Return the tests' FSDP on CPUs; the tests are those of this file's checkout."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import tests.trainer.distributed.test_fsdp

    return tests.test_sharding


def save() -> Callable[[], Told]:
    """Write a checkpoint after one update."""
    checkpoints, model, optimizer = build()
    frozen = data.manifest.Manifest.read(Path(FOLDER) / "manifest.jsonl")
    config, optim = DataConfig(update_seconds=80.0), OptimConfig(schedule="constant")
    shape = {"seed": 0, "precision": "auto", "data": frozen.fingerprint()}
    shape |= training_knobs(ModelConfig(name=MODEL), optim, config, steps=0)

    def work() -> Told:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()
        checkpoints.save(TrainState(step=1, update=1), shape)
        checkpoints.close()
        return {}

    return work


def load() -> Callable[[], Told]:
    """Load that checkpoint; tell what stays of it in this process."""
    checkpoints, _, optimizer = build()
    path = Path(FOLDER) / "checkpoints/step-00000001"

    def work() -> Told:
        told: Told = {}
        timed(told, "load", lambda: checkpoints.load(path, TrainState()))
        moments = [each for state in optimizer.state.values() for each in state.values()]
        local = [each.to_local() if hasattr(each, "to_local") else each for each in moments]
        return told | {"moments": sum(each.nbytes for each in local)}

    return work


if __name__ == "__main__":
    main()
