"""The gradient is averaged over processes once an update, in float32 or in bf16."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.profiler import profile

from data.atomic_files import write_json
from data.batch import target_positions
from data.errors import InputError
from eval.whisper import load_whisper
from tests.conftest import free_port
from tests.forked import FORKS, STARTED
from tests.parent_death import die_with_parent
from trainer.checkpoint.fixed_knobs import refuse_changed_knobs, training_knobs
from trainer.config import Config
from trainer.distributed import collectives
from trainer.distributed.build_engine import build_engine
from trainer.distributed.collectives import average
from trainer.distributed.engine import Engine
from trainer.model import ModelConfig, prepare_training
from trainer.optimizer import OptimConfig
from trainer.step import train_step

PROCESSES, TOKENS = 2, 7
PASSES = (1, 4)
# precision and rank of LoRA: DDP, half-precision weights, and DDP under autocast
KINDS: dict[str, tuple[Any, int | None]] = {
    "ddp": ("no", None),
    "half": ("bf16", None),
    "lora": ("no", 2),
}
CASES = [(kind, dtype, passes) for kind in KINDS for dtype in ("fp32", "bf16") for passes in PASSES]
Case = tuple[str, str, int]
Found = dict[Case, dict[str, Any]]


def work(rank: int, port: int, model: Path, out: Path) -> None:
    """Be one of the processes: make an update of each case, and write what was found."""
    die_with_parent()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    found: Found = {case: update(rank, model, case) for case in CASES}
    accelerator = Accelerator(cpu=True)
    torch.save({"updates": found, "pieces": in_pieces(accelerator)}, out / f"{rank}.pt")
    accelerator.end_training()


def in_pieces(accelerator: Accelerator) -> dict[str, Tensor]:
    """Average the same values in one piece, and in pieces of three values."""
    values = torch.randn(11, generator=torch.Generator().manual_seed(accelerator.process_index))
    found = {"own": values}
    for name, size in (("one", 11), ("four", 3)):
        collectives.PIECE = size
        found[name] = values.clone()
        with profile(acc_events=True, record_shapes=True) as profiler:
            average(accelerator, found[name], torch.bfloat16)
        found[f"{name}: sent"] = torch.tensor(sent_in(profiler))
    return found


def sent_in(profiler: Any) -> list[int]:
    """Return how many values each all-reduce sends."""
    return [e.input_shapes[0][0] for e in profiler.events() if e.name == "gloo:all_reduce"]


def update(rank: int, model: Path, case: Case) -> dict[str, Any]:
    """Make the second update of a new engine; return its gradient, loss and collectives."""
    kind, reduce_dtype, passes = case
    precision, lora_rank = KINDS[kind]
    engine = engine_of(model, precision, ModelConfig(lora_rank=lora_rank), reduce_dtype)
    gradients: list[dict[str, Tensor]] = []
    named = list(engine.module.named_parameters())
    engine.optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})
    )
    tokens, clips = PROCESSES * 4 * TOKENS, 4 // passes
    train_step(engine, batches(rank, clips), tokens=tokens, max_norm=1e9)  # DDP rebuilds buckets
    with profile(acc_events=True, record_shapes=True) as profiler:
        result = train_step(engine, batches(rank, clips), tokens=tokens, max_norm=1e9)
    sent = sent_in(profiler)
    return {
        "gradient": gradients[-1],
        "loss": result.loss.item(),
        "collectives": len(sent),
        "values": sum(sent),
    }


def engine_of(model: Path, precision: Any, config: ModelConfig, reduce_dtype: Any) -> Engine:
    """Return a new engine, whose weights one update hardly changes."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    optim = OptimConfig(lr=1e-9, reduce_dtype=reduce_dtype)
    module = prepare_training(load_whisper(str(model)), config)
    return build_engine(accelerator, module, config, optim, print)


def batches(rank: int, clips: int) -> Iterator[Any]:
    """Yield the passes of four clips, of which each process has its own."""
    generator = torch.Generator().manual_seed(rank)
    features = torch.randn(4, 80, 208, generator=generator)
    ids = torch.randint(0, 200, (4, TOKENS), generator=generator)
    for first in range(0, 4, clips):
        rows = ids[first : first + clips]
        yield SimpleNamespace(
            features=features[first : first + clips],
            decoder_input_ids=rows,
            labels=rows,
            targets=target_positions(rows),
            is_last=first + clips == 4,
        )


@pytest.fixture(scope="module")
def processes(blank_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each process found."""
    out, port = tmp_path_factory.mktemp("average"), free_port()
    started = [
        FORKS.Process(target=work, args=(rank, port, blank_model, out)) for rank in range(PROCESSES)
    ]
    for process in started:
        process.start()
        STARTED.append(process)
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * PROCESSES
    return [torch.load(out / f"{rank}.pt") for rank in range(PROCESSES)]


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the norm of the difference of two gradients, as a share of the norm of the other."""
    assert one.keys() == other.keys()
    norm = torch.nn.utils.get_total_norm
    return float(norm([one[name] - other[name] for name in other]) / norm(other.values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_update_of_four_passes_sends_what_one_of_one_pass_sends(
    processes: list[dict[str, Any]], kind: str, dtype: str
) -> None:
    one, four = (processes[0]["updates"][kind, dtype, passes] for passes in PASSES)
    trained = sum(gradient.numel() for gradient in one["gradient"].values())
    assert one["collectives"] == four["collectives"] >= 1
    assert one["values"] == four["values"] >= trained  # each value once; padding of heads besides
    assert one["values"] < 1.3 * trained


def test_half_precision_weights_need_one_all_reduce(processes: list[dict[str, Any]]) -> None:
    for dtype in ("fp32", "bf16"):
        assert processes[0]["updates"]["half", dtype, 4]["collectives"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_the_gradient_is_the_same_but_for_rounding_and_on_all_processes(
    processes: list[dict[str, Any]], kind: str
) -> None:
    exact, rounded = (processes[0]["updates"][kind, d, 4]["gradient"] for d in ("fp32", "bf16"))
    print(f"{kind}: {(share := difference(rounded, exact)):.2%}")  # docs/multi-gpu.md has it
    assert 1e-4 < share < 4e-3  # a value of bf16 has 8 bits
    other = processes[1]["updates"][kind, "bf16", 4]["gradient"]
    assert all(torch.equal(rounded[name], other[name]) for name in rounded)


def test_an_average_in_pieces_is_the_average(processes: list[dict[str, Any]]) -> None:
    (first, second) = (process["pieces"] for process in processes)
    assert torch.equal(first["four"], first["one"])
    assert torch.equal(first["four"], second["four"])
    assert first["one: sent"].tolist() == [11]
    assert sorted(first["four: sent"].tolist()) == [2, 3, 3, 3]
    mean = (first["own"] + second["own"]) / 2
    torch.testing.assert_close(first["four"], mean, rtol=0, atol=0.02)
    assert not torch.equal(first["four"], mean)


def test_a_resume_must_not_change_it_and_older_checkpoints_have_float32(tmp_path: Path) -> None:
    config = Config()
    fp32, bf16 = (
        training_knobs(config.model, OptimConfig(reduce_dtype=dtype), config.data, 7)
        for dtype in ("fp32", "bf16")
    )
    assert "optim.reduce_dtype" not in fp32  # as in a checkpoint from before it existed
    write_json(tmp_path / "state.json", {"shape": fp32})
    refuse_changed_knobs(tmp_path, fp32, ())
    with pytest.raises(InputError, match=r"optim\.reduce_dtype=None, now it is bf16"):
        refuse_changed_knobs(tmp_path, bf16, ())
    refuse_changed_knobs(tmp_path, bf16, ("optim.reduce_dtype",))
    write_json(tmp_path / "state.json", {"shape": bf16})
    refuse_changed_knobs(tmp_path, bf16, ())
    with pytest.raises(InputError, match=r"optim\.reduce_dtype=bf16"):
        refuse_changed_knobs(tmp_path, fp32, ())
