"""An update is not changed by one that an error ended in the middle of a backward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.half_precision.test_forward import gradients_of, half_of, inputs, module_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("calls", [1, 20])  # of add_(): at the decoder's end, and in its layers
def test_an_update_after_an_error_in_a_backward_pass_has_its_own_gradient(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    module, batch = half_of(module_of(wide_model), torch.bfloat16), inputs()
    expected = gradients_of(module, batch)
    assert module.half_forward is not None
    module.half_forward.weights.begin_update()
    add, left = Tensor.add_, calls

    def fail(total: Tensor, *rest: Any) -> Tensor:
        nonlocal left
        left -= 1
        if left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return add(total, *rest)

    loss = module(*batch).sum()
    with monkeypatch.context() as patched:
        patched.setattr(Tensor, "add_", fail)
        with pytest.raises(torch.OutOfMemoryError):
            loss.backward()
    module.half_forward.weights.begin_update()
    found = gradients_of(module, batch)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
