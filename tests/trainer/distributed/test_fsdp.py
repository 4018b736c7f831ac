"""FSDP2 on two processes (gloo) trains, evaluates and resumes like one process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from transformers.models.whisper import modeling_whisper

from data.atomic_files import read_jsonl
from data.errors import InputError
from eval.whisper import load_whisper
from tests.conftest import made_once
from tests.interrupted import interrupted
from trainer.distributed import accelerator as device
from trainer.distributed.accelerator import refuse_plugins, refuse_unsupported_modes
from trainer.distributed.fsdp import separate_full_model, set_reduce_dtype
from trainer.model import ModelConfig, prepare_training

CONFIGS = Path(__file__).resolve().parents[3] / "trainer/recipes/accelerate"
SCORED = ("--data.test_split=test", "--data.dev_split=dev", "--eval.max_length=6")
Cut = Callable[[], None]


class Fsdp(accelerate.Accelerator):
    """Accelerate's class with the settings of a GPU: it offers no FSDP on CPUs."""

    def __init__(self, **more: Any) -> None:
        """Take the same arguments as Accelerate's."""
        super().__init__(**more)
        os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["WhisperEncoderLayer", "WhisperDecoderLayer"],
            cpu_ram_efficient_loading=False,
        )


def fsdp() -> None:
    """Have the run's process cut up its weights."""
    device.Accelerator = Fsdp


def train(trainer: Any, run: Path, *extra: str, cut: Cut | None) -> str:
    """Make a run on two processes, with or without FSDP; return its output."""
    return str(trainer(run, *SCORED, *extra, processes=2, sabotage=cut).output)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint."""
    return load_file(run / f"checkpoints/step-{step:08d}/model.safetensors")


def moments(run: Path, step: int) -> dict[str, Any]:
    """Return the optimizer of a checkpoint."""
    found: dict[str, Any] = torch.load(run / f"checkpoints/step-{step:08d}/optimizer.bin")
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of tensors are equal up to the order of sums."""
    return one.keys() == other.keys() and all(
        torch.allclose(tensor, other[name], rtol=0, atol=1e-5) for name, tensor in one.items()
    )


@pytest.fixture(scope="module")
def whole(trainer: Any) -> Path:
    """Return a run whose processes hold everything."""
    return Path(trainer.reference(*SCORED, processes=2))


@pytest.fixture(scope="module")
def parts(trainer: Any, shared: Path) -> Path:
    """Return a run whose processes hold parts of the weights."""

    def make(run: Path) -> None:
        assert "Traceback" not in train(trainer, run, cut=fsdp)

    return made_once(shared / "runs" / "fsdp", make)


def test_parts_are_trained_scored_saved_and_exported_as_the_whole(whole: Path, parts: Path) -> None:
    assert same(weights(whole, 6), weights(parts, 6))
    exported = [load_file(run / "model/model.safetensors") for run in (whole, parts)]
    assert same(*exported)
    one, other = moments(whole, 6), moments(parts, 6)
    assert [g["params"] for g in one["param_groups"]] == [
        g["params"] for g in other["param_groups"]
    ]
    assert one["state"].keys() == other["state"].keys()
    for number, state in one["state"].items():
        assert same(state, other["state"][number])
    texts = "eval/step-00000006/test/utterances.jsonl"
    assert (whole / texts).read_text() == (parts / texts).read_text()


@pytest.mark.parametrize("first", [True, False])
def test_a_checkpoint_of_either_goes_on_as_the_other(
    trainer: Any, whole: Path, parts: Path, tmp_path: Path, first: bool
) -> None:
    run = interrupted(parts if first else whole, tmp_path / "run", after=3)
    done = train(trainer, run, "--resume=auto", cut=None if first else fsdp)
    assert "resuming after update 3" in done
    assert same(weights(whole, 6), weights(run, 6))
    assert moments(whole, 6)["state"].keys() == moments(run, 6)["state"].keys()
    assert json.loads((run / "status.json").read_text())["status"] == "finished"


def test_the_gradient_may_be_added_up_in_bf16(trainer: Any, tmp_path: Path) -> None:
    norms = {}
    for dtype in ("fp32", "bf16"):
        run = tmp_path / dtype
        extra = (f"--optim.reduce_dtype={dtype}", "--loop.max_steps=1")
        trainer(run, *extra, processes=2, sabotage=fsdp)
        (row,) = (r for r in read_jsonl(run / "metrics.jsonl") if "train/grad_norm" in r)
        norms[dtype] = row["train/grad_norm"]
    assert norms["bf16"] != norms["fp32"]
    assert norms["bf16"] == pytest.approx(norms["fp32"], rel=4e-3)  # a value of bf16 has 8 bits


def test_the_computation_s_precision_is_not_that_of_the_sum_of_gradients() -> None:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    plugin.set_mixed_precision("bf16")
    asked: Any = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    set_reduce_dtype(asked, torch.float32)
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)


def test_the_model_that_stays_whole_goes_to_the_device_by_itself(blank_model: Path) -> None:
    asked: Any = SimpleNamespace(distributed_type=DistributedType.FSDP, device=torch.device("meta"))
    whisper = load_whisper(str(blank_model))
    module = separate_full_model(prepare_training(whisper, ModelConfig()), asked)
    assert whisper.model.device.type == "meta"
    assert {weight.device.type for weight in module.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("kind", "version"),
    [(DistributedType.DEEPSPEED, 2), (DistributedType.MEGATRON_LM, 2), (DistributedType.FSDP, 1)],
)
def test_what_would_take_the_update_over_is_refused_in_a_sentence(
    kind: DistributedType, version: int
) -> None:
    asked: Any = SimpleNamespace(distributed_type=kind, is_fsdp2=version == 2)
    with pytest.raises(InputError, match=r"use --multi_gpu, or FSDP .*/fsdp2-zero2\.yaml"):
        refuse_unsupported_modes(asked)


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_a_launcher_that_asks_for_a_plugin_is_refused_in_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=rf"asks for {name}, .*/fsdp2-zero2\.yaml"):
        refuse_plugins()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_the_config_files_that_we_give(path: Path) -> None:
    config = load_config_from_file(str(path))
    asked = vars(config)
    assert asked["mixed_precision"] == "no"  # it is a knob of ours
    sharded = asked.get("fsdp_config") or {}
    kind = "MULTI_GPU" if path.stem == "ddp" else "FSDP"
    assert config.distributed_type == kind
    assert bool(sharded) == (kind == "FSDP")
    assert sharded.get("fsdp_version", 2) == 2
    names = sharded.get("fsdp_transformer_layer_cls_to_wrap", "").split(",")
    for name in filter(None, names):
        assert hasattr(modeling_whisper, name)
