"""Host memory that is used again for each checkpoint; what needs a GPU is in tests/gpu."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.checkpoint.pinned_memory import (
    BLOCK_BYTES,
    HostBlocks,
    PinnedCopy,
    map_tensors,
    to_host,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool)


def tensors() -> list[torch.Tensor]:
    """Return one of each dtype, of odd sizes, with a scalar and an empty one."""
    torch.manual_seed(0)
    each = [(8 * torch.rand(3, 5, 7)).to(dtype) for dtype in DTYPES]
    return [*each, torch.tensor(3.0), torch.empty(0, 4)]


def filled(blocks: HostBlocks, sources: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies in the blocks' memory."""
    blocks.reset()
    copies = [blocks.empty_like(source) for source in sources]
    for copy, source in zip(copies, sources, strict=True):
        copy.copy_(source)
    return copies


def test_each_tensor_has_memory_of_its_own_and_keeps_shape_and_dtype() -> None:
    sources = tensors()
    copies = filled(HostBlocks(pinned=False), sources)
    for copy, source in zip(copies, sources, strict=True):
        assert (copy.dtype, copy.shape) == (source.dtype, source.shape)
        assert torch.equal(copy, source)


def test_the_same_tensors_get_the_same_memory_again() -> None:
    blocks, sources = HostBlocks(pinned=False), tensors()
    first = [copy.data_ptr() for copy in filled(blocks, sources)]
    doubled = [source + source for source in sources]
    copies = filled(blocks, doubled)
    assert [copy.data_ptr() for copy in copies] == first
    assert all(map(torch.equal, copies, doubled))


def test_a_tensor_that_no_block_has_room_for_gets_another_block() -> None:
    blocks = HostBlocks(pinned=False)
    half = torch.empty(BLOCK_BYTES // 2 + 1, dtype=torch.uint8, device="meta")
    large = torch.empty(BLOCK_BYTES + 1, dtype=torch.uint8, device="meta")
    one, two, three = map(blocks.empty_like, (half, half, large))
    starts = sorted((each.data_ptr(), each.data_ptr() + each.nbytes) for each in (one, two, three))
    assert all(end <= start for (_, end), (start, _) in pairwise(starts))
    blocks.reset()  # a larger tensor first: blocks that are too small for it are passed over
    assert blocks.empty_like(large).data_ptr() == three.data_ptr()


def test_what_is_saved_of_a_block_is_the_tensor_alone(tmp_path: Path) -> None:
    sources = {str(n): source for n, source in enumerate(tensors())}
    copies = dict(
        zip(sources, filled(HostBlocks(pinned=False), list(sources.values())), strict=True)
    )
    torch.save(copies, tmp_path / "copies.bin")
    save_file(copies, tmp_path / "copies.safetensors")
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 20_000
    loaded = torch.load(tmp_path / "copies.bin", weights_only=True)
    assert all(torch.equal(loaded[name], source) for name, source in sources.items())
    loaded = load_file(tmp_path / "copies.safetensors")
    assert all(torch.equal(loaded[name], source) for name, source in sources.items())


def test_a_state_dict_keeps_its_structure_and_its_other_values() -> None:
    state = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}
    copy = map_tensors(state, to_host)
    assert copy == state
    assert copy["state"][0]["step"] is not state["state"][0]["step"]
    assert copy["param_groups"][0] is not state["param_groups"][0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="pinned memory can be had")
def test_without_pinned_memory_the_copy_is_complete_at_once_and_a_sentence_says_so_once() -> None:
    weight, told = torch.nn.Parameter(torch.ones(3)), []
    optimizer = torch.optim.SGD([weight], lr=0.5)
    pinned = PinnedCopy(optimizer, torch.device("cpu"), told.append)
    for _ in range(2):
        before = weight.detach().clone()
        copies, copied = pinned.copy({"weights": {"weight": weight}})
        assert copied is None
        weight.sum().backward()
        optimizer.step()  # there is nothing that it would wait for
        assert torch.equal(copies["weights"]["weight"], before)
        assert not torch.equal(weight, before)
    assert len(told) == 1
    assert "no pinned host memory for checkpoints (" in told[0]
