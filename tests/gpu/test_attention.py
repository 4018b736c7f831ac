"""Attention that reads the states of silence computes what float64 computes."""

from collections.abc import Iterator

import pytest
import torch
from gpu.rows import record, smoke
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eval.silence_states import STRIDE, AttentionWithSilence

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

WIDTH, HEADS = 768, 12  # whisper-small's
ROWS = 1 if smoke() else 4
BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
REFUSALS = ("No available kernel", "No viable backend")  # of a GPU, and of a CPU
# relative to the norm of what float64 gives; half precision rounds weights and states as well
ALLOWED = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
SHAPES = ((248, 248), (137, 137), (24, 248))  # queries and keys; the last is the decoder's


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Keep float32 products in float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def attention(silence: Tensor) -> AttentionWithSilence:
    """Return a layer of small's shape that hears silence."""
    from transformers import WhisperConfig

    torch.manual_seed(0)
    config = WhisperConfig(d_model=WIDTH, encoder_attention_heads=HEADS)
    config._attn_implementation = "sdpa"
    made = AttentionWithSilence(embed_dim=WIDTH, num_heads=HEADS, config=config, layer_idx=0)
    for weight in made.parameters():
        nn.init.normal_(weight, std=WIDTH**-0.5)
    made.silence = silence
    return made


def results(
    layer: AttentionWithSilence, query: Tensor, key: Tensor | None, weight: Tensor
) -> dict[str, Tensor]:
    """Return the output, and the gradient of its weighted sum."""
    query = query.clone().requires_grad_()
    heard, _ = layer(query, key)
    (heard.double() * weight).sum().backward()
    assert query.grad is not None
    found = {"output": heard, "input's gradient": query.grad}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        found[f"{name}'s gradient"] = getattr(layer, name).weight.grad
    return {name: each.detach().double().cpu() for name, each in found.items()}


@pytest.mark.parametrize("dtype", list(ALLOWED), ids=str)
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_attention_with_silence_is_that_of_float64(
    queries: int, keys: int, backend: str, dtype: torch.dtype, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(1)
    silence = torch.randn(1, -(-1500 // STRIDE), WIDTH, generator=generator)
    query = torch.randn(ROWS, queries, WIDTH, generator=generator)
    key = None if queries == keys else torch.randn(ROWS, keys, WIDTH, generator=generator)
    weight = torch.randn(ROWS, queries, WIDTH, generator=generator).double()
    exact = attention(silence.double()).double()
    with sdpa_kernel(SDPBackend.MATH):
        expected = results(exact, query.double(), None if key is None else key.double(), weight)
    layer = attention(silence.to(device)).to(device)
    half = dtype != torch.float32
    try:
        with sdpa_kernel(BACKENDS[backend]), torch.autocast(device.type, dtype, enabled=half):
            to = None if key is None else key.to(device)
            found = results(layer, query.to(device), to, weight.to(device))
    except RuntimeError as error:
        if not any(told in str(error) for told in REFUSALS):
            raise
        record(f"{backend}, {str(dtype)[6:]}, {queries} x {keys}", supported=False)
        pytest.skip(f"{backend} takes no such attention")
    off = {n: float((found[n] - e).norm() / e.norm()) for n, e in expected.items()}
    worst = max(off, key=lambda name: off[name])
    record(
        f"{backend}, {str(dtype)[6:]}, {queries} x {keys}",
        supported=True,
        worst=worst,
        error=off[worst],
    )
    assert off[worst] < ALLOWED[dtype], f"expected at most {ALLOWED[dtype]}, found {off}"
