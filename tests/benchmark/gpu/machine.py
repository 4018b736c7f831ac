"""What the run is on: card, driver and versions. It also reads the libraries from disk once."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the other benchmarks
sys.path.insert(1, str(Path(__file__).resolve().parents[3]))

import torch
from gpu.rows import record, smoke

import trainer.main  # noqa: F401 - so that later steps find it in the page cache
from trainer.metrics.flops import peak_flops

PACKAGES = ("torch", "torchaudio", "transformers", "accelerate", "datasets", "soundfile")


def main() -> None:
    """Run a kernel, and tell what it ran on."""
    device = torch.device("cpu" if smoke() else "cuda")
    product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
    assert product.sum().item() == 512, f"a product of ones is {product.sum().item()}, not 512"
    peak, source = peak_flops(device)
    found = {name: _version(name) for name in PACKAGES} | {"cores": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "card": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "gb": round(properties.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    record("machine", **found, peak_tflops=round(peak / 1e12, 1), peak_from=source)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
