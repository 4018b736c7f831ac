"""Dropout is applied where the stock model applies it, with the same probabilities."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tests.trainer.half_precision.test_forward import (
    ALL,
    difference,
    gradients_of,
    half_of,
    inputs,
    module_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
attend = F.scaled_dot_product_attention


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "knobs", [{"dropout": 0.3}, {"lora_rank": 4, "lora_modules": ALL, "lora_dropout": 0.4}]
)
def test_with_a_dropout_that_scales_losses_and_gradients_are_those_of_the_stock_model(
    wide_model: Path, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any], checkpointing: bool
) -> None:
    monkeypatch.setattr(F, "dropout", scale)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend_and_scale)
    batch, module = inputs(), module_of(wide_model, **knobs)
    expected, stock = module(*batch), gradients_of(module, batch)
    module.zero_grad()
    half_of(module, torch.float32, gradient_checkpointing=checkpointing)
    torch.testing.assert_close(module(*batch), expected, rtol=1e-5, atol=1e-5)
    assert difference(gradients_of(module, batch), stock) < 1e-5
    assert not torch.allclose(module.eval()(*batch), expected, rtol=1e-3)


def scale(
    hidden: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Scale in place of dropout: at another place or probability the result is another."""
    assert not inplace
    return hidden * (1 - p / 2) if training else hidden


def attend_and_scale(*tensors: Any, dropout_p: float = 0.0, **more: Any) -> Tensor:
    """Attend, and scale in place of dropout."""
    return attend(*tensors, **more) * (1 - dropout_p / 2)
