"""A checkpoint is copied from its files, whose pages the processes of a machine share."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.checkpoint.manager import Checkpoints
from trainer.checkpoint.rotation import CheckpointConfig, CheckpointRotation
from trainer.checkpoint.snapshot import read_optimizer
from trainer.state import TrainState

WIDTH = 300  # a tensor is much longer than a page


def mapped_from(path: Path) -> list[range]:
    """Return the addresses at which this process has mapped a file."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            begin, end = line.split(" ")[0].split("-")
            found.append(range(int(begin, 16), int(end, 16)))
    return found


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a state dict that are longer than one number."""
    if isinstance(value, Tensor):
        yield from [value] if value.numel() > 1 else []
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors(each)


def held_in(value: Any, path: Path) -> list[bool]:
    """Tell of each tensor whether it lies in a file's pages."""
    places = mapped_from(path)
    return [any(each.data_ptr() in place for place in places) for each in tensors(value)]


class Trained:
    """A layer that is trained, and its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.accelerator = Accelerator(cpu=True)
        torch.manual_seed(0)
        layer = torch.nn.Linear(WIDTH, WIDTH)
        self.model, self.optimizer = self.accelerator.prepare(
            layer, torch.optim.AdamW(layer.parameters(), fused=True)
        )
        rotation = CheckpointRotation(folder, CheckpointConfig())
        self.checkpoints = Checkpoints(rotation, self.accelerator, print)

    def update(self) -> None:
        """Move the weights."""
        self.model(torch.ones(1, WIDTH)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def saved(self) -> Path:
        """Return a checkpoint of now."""
        self.checkpoints.save(TrainState(step=1), {})
        self.checkpoints.wait_for_write()
        return self.checkpoints.rotation.folder / "step-00000001"

    def state(self) -> list[Tensor]:
        """Return copies of all that trains."""
        held = (self.model.state_dict(), self.optimizer.state_dict())
        return [each.clone() for each in tensors(list(held))]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Tell whether tensors have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_resume_copies_from_pages_that_processes_share(tmp_path: Path) -> None:
    first, again = Trained(tmp_path), Trained(tmp_path)
    first.update()
    path = first.saved()
    seen: dict[str, list[bool]] = {}

    def see_weights(_: object, state: dict[str, Any], *__: object) -> None:
        seen["weights"] = held_in(state, path / "model.safetensors")

    def see_moments(_: object, state: dict[str, Any]) -> None:
        seen["moments"] = held_in(state["state"], path / "optimizer.bin")

    again.model.register_load_state_dict_pre_hook(see_weights)
    again.optimizer.optimizer.register_load_state_dict_pre_hook(see_moments)
    again.checkpoints.load(path, TrainState())
    assert seen == {"weights": [True, True], "moments": [True] * 4}
    assert same(again.state(), first.state())


def test_moments_of_any_mode_are_read_from_pages_that_processes_share(tmp_path: Path) -> None:
    first = Trained(tmp_path)
    first.update()
    path = first.saved()
    assert held_in(read_optimizer(path), path / "optimizer.bin") == [True] * 4


def test_nothing_that_trains_stays_in_a_checkpoints_files(tmp_path: Path) -> None:
    first, again = Trained(tmp_path), Trained(tmp_path)
    first.update()
    path = first.saved()
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    again.checkpoints.load(path, TrainState())
    held = [again.model.state_dict(), again.optimizer.optimizer.state_dict()]
    for name in ("model.safetensors", "optimizer.bin"):
        assert not any(held_in(held, path / name))
    again.update()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    shutil.rmtree(path)  # as a rotated one goes
    again.update()
    first.update()
    first.update()
    assert same(again.state(), first.state())
