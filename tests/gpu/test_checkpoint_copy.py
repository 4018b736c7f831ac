"""On a GPU a checkpoint is copied beside training, and holds the moment at which it was taken."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.pinned_memory import PinnedCopy
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation
from trainer.checkpoint.snapshot import Snapshot
from trainer.state import TrainState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
WIDTH, LAYERS = 4096, 6  # 0.4 GB of weights and 0.8 GB of moments: some 50 ms of copying


class Listening(torch.nn.Sequential):
    """Layers and a buffer, which is changed in place without an optimizer."""

    def __init__(self) -> None:
        super().__init__(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self.register_buffer("silence", torch.zeros(1000, 1000))


class Bench:
    """A model on a GPU that was updated once, so that its optimizer has moments."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()
        model = Listening()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.told: list[str] = []
        self.update()

    def update(self) -> None:
        """Move the weights."""
        self.model(torch.ones(8, WIDTH, device="cuda")).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def pinned(self) -> PinnedCopy:
        """Return what copies beside training."""
        return PinnedCopy(self.optimizer.optimizer, self.accelerator.device, self.told.append)


@pytest.fixture
def bench() -> Bench:
    """Return a model on a GPU."""
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests compute on the CPU
    torch.manual_seed(0)
    return Bench()


def same(a: Snapshot, b: Snapshot) -> bool:
    """Tell whether two snapshots hold the same bits."""
    for snapshot in (a, b):
        if snapshot.copied is not None:
            snapshot.copied.synchronize()
    moments = [
        (one, b.optimizer["state"][number][key])
        for number, state in a.optimizer["state"].items()
        for key, one in state.items()
    ]
    weights = [(weight, b.weights[name]) for name, weight in a.weights.items()]
    return all(torch.equal(one, two) for one, two in [*weights, *moments])


def test_a_step_right_after_it_does_not_reach_the_snapshot(bench: Bench) -> None:
    pinned = bench.pinned()
    for _ in range(3):
        before = Snapshot.take(bench.accelerator)
        snapshot = Snapshot.take(bench.accelerator, pinned)
        bench.update()
        bench.model.silence.add_(1)
        assert same(snapshot, before)
        assert not same(Snapshot.take(bench.accelerator), before)
    assert bench.told == []


def test_the_host_goes_on_and_only_the_step_waits_on_the_gpu(bench: Bench) -> None:
    pinned = bench.pinned()
    Snapshot.take(bench.accelerator, pinned)
    torch.cuda.synchronize()
    snapshot = Snapshot.take(bench.accelerator, pinned)
    assert snapshot.copied is not None
    at_return = snapshot.copied.query()
    bench.model(torch.ones(8, WIDTH, device="cuda")).square().mean().backward()
    computed = torch.cuda.Event()
    computed.record()
    computed.synchronize()
    after_backward = snapshot.copied.query()
    bench.optimizer.step()
    torch.cuda.current_stream().synchronize()
    assert (at_return, after_backward, snapshot.copied.query()) == (False, False, True)


def test_a_second_snapshot_holds_the_second_state_in_the_same_pinned_memory(bench: Bench) -> None:
    pinned = bench.pinned()
    first = Snapshot.take(bench.accelerator, pinned)
    assert first.copied is not None
    first.copied.synchronize()
    places = {name: weight.data_ptr() for name, weight in first.weights.items()}
    bench.update()
    second, expected = Snapshot.take(bench.accelerator, pinned), Snapshot.take(bench.accelerator)
    assert same(second, expected)
    learnt = [name for name in places if name != "silence"]  # that one is copied at once
    assert all(second.weights[name].data_ptr() == places[name] for name in learnt)
    assert all(second.weights[name].is_pinned() for name in learnt)
    assert all(state["exp_avg"].is_pinned() for state in second.optimizer["state"].values())


def test_the_gpu_takes_no_memory_for_a_snapshot(bench: Bench) -> None:
    pinned = bench.pinned()
    bench.update()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        snapshot = Snapshot.take(bench.accelerator, pinned)
        assert snapshot.copied is not None
        snapshot.copied.synchronize()
    assert torch.cuda.max_memory_allocated() == before


def test_what_is_loaded_right_after_a_save_does_not_reach_it(bench: Bench, tmp_path: Path) -> None:
    rotation = CheckpointRotation(tmp_path, CheckpointConfig())
    checkpoints = Checkpoints(rotation, bench.accelerator, bench.told.append)
    checkpoints.save(TrainState(step=1), {})
    checkpoints.wait_for_write()
    (first,) = rotation.all()
    bench.update()
    moved = Snapshot.take(bench.accelerator)
    checkpoints.save(TrainState(step=2), {})
    checkpoints.load(first, TrainState())
    checkpoints.close()
    second = load_file(rotation.all()[-1] / "model.safetensors")
    assert all(torch.equal(second[name], weight) for name, weight in moved.weights.items())
    assert not torch.equal(bench.model[0].weight.cpu(), second["0.weight"])
    assert bench.told == []
