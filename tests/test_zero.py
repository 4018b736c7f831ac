"""DeepSpeed's ZeRO-2 on two processes over gloo trains and resumes as DDP does."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import DeepSpeedPlugin, DistributedType
from safetensors.torch import load_file

from data.errors import InputError
from trainer import device, loop
from trainer.optim import OptimConfig
from trainer.sharding import prepare
from trainer.zero import configure

SCORED = ("--data.test_split=test", "--data.dev_split=dev", "--eval.max_length=6")


class Accelerator(accelerate.Accelerator):
    """Accelerate's, told what a config file for GPUs says: for CPUs it offers no DeepSpeed."""

    def __init__(self, **more: Any) -> None:
        """Take what Accelerate's takes."""
        super().__init__(**more)
        PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED
        self.state.distributed_type = DistributedType.DEEPSPEED
        plugin = DeepSpeedPlugin(zero_stage=2)
        plugin.select(_from_accelerator_state=True)
        plugin.set_mixed_precision("no")
        self.state.deepspeed_plugins = plugin
        self.deepspeed_engine_wrapped = None


def cut() -> None:
    """Have DeepSpeed make the run's updates."""
    device.Accelerator = Accelerator


def train(trainer: Any, run: Path, *extra: str, zero: bool) -> str:
    """Make a run on two processes; return what it said."""
    if zero:
        pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")
    done = trainer(run, *SCORED, *extra, processes=2, sabotage=cut if zero else None)
    return str(done.output)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint."""
    return load_file(run / f"checkpoints/step-{step:08d}/model.safetensors")


def moments(run: Path, step: int) -> dict[str, Any]:
    """Return the optimizer of a checkpoint."""
    found: dict[str, Any] = torch.load(run / f"checkpoints/step-{step:08d}/optimizer.bin")
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two sets of tensors are the same, but for the order of sums."""
    return one.keys() == other.keys() and all(
        torch.allclose(tensor, other[name], rtol=0, atol=1e-5) for name, tensor in one.items()
    )


@pytest.fixture(scope="module")
def ddp(trainer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose processes hold everything."""
    run = tmp_path_factory.mktemp("ddp") / "run"
    train(trainer, run, zero=False)
    return run


def test_what_zero_trains_and_saves_is_what_ddp_does(
    trainer: Any, ddp: Path, tmp_path: Path
) -> None:
    run = tmp_path / "zero"
    said = train(trainer, run, zero=True)
    assert "Traceback" not in said
    assert same(weights(ddp, 6), weights(run, 6))
    one, other = moments(ddp, 6), moments(run, 6)
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for number, state in one["state"].items():
        assert same(state, other["state"][number])
    texts = "eval/step-00000006/test/utterances.jsonl"
    assert (ddp / texts).read_text() == (run / texts).read_text()


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_of_either_goes_on_as_the_other(
    trainer: Any, ddp: Path, tmp_path: Path, first: bool
) -> None:
    run = tmp_path / "run"
    train(trainer, run, "--loop.max_steps=3", zero=first)
    train(trainer, run, "--resume=auto", zero=not first)
    assert same(weights(ddp, 6), weights(run, 6))
    assert json.loads((run / "status.json").read_text())["status"] == "finished"


def poison() -> None:
    """Make the gradient of the second update NaN on one process, under DeepSpeed."""
    cut()
    made, updates = loop.train_step, [0]

    def bad(accelerator: Any, model: Any, optimizer: Any, batches: Any, **more: Any) -> Any:
        updates[0] += 1
        held = list(batches)
        if updates[0] == 2 and accelerator.process_index == 1:
            held[-1].features[:] = torch.nan
        return made(accelerator, model, optimizer, held, **more)

    loop.train_step = bad


def test_a_loss_of_nan_on_one_process_moves_no_weight(trainer: Any, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")
    run = tmp_path / "run"
    extra = ("--loop.max_steps=3", "--checkpoint.save_every=1", "--checkpoint.keep=9")
    trainer(run, *extra, "--precision=bf16", processes=2, sabotage=poison)
    assert same(weights(run, 1), weights(run, 2))
    assert not same(weights(run, 2), weights(run, 3))
    assert moments(run, 2)["state"][0]["step"] == 1
    settings = json.loads((run / "environment.json").read_text())
    assert settings["precision"] == "bf16"


@pytest.mark.parametrize(
    ("precision", "processes", "stage", "offload", "told"),
    [
        ("no", 1, 2, "none", "there is one: leave it out"),
        ("no", 2, 3, "none", "asks for DeepSpeed's stage 3, and this loop drives 2"),
        ("no", 2, 2, "cpu", "offload_optimizer_device is not driven here"),
        ("fp16", 2, 2, "none", "precision=fp16 is not there under DeepSpeed"),
    ],
)
def test_what_the_loop_does_not_drive_is_refused_in_a_sentence(
    precision: str, processes: int, stage: int, offload: str, told: str
) -> None:
    cut = {"stage": stage, "offload_optimizer": {"device": offload}}
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": cut})
    asked: Any = SimpleNamespace(num_processes=processes, deepspeed_plugin=plugin)
    with pytest.raises(InputError, match=told):
        configure(asked, precision)


def test_moments_of_8_bits_are_refused() -> None:
    asked: Any = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    module: Any = None
    with pytest.raises(InputError, match="name=adamw8bit is not there under DeepSpeed"):
        prepare(asked, module, OptimConfig(name="adamw8bit"))
