"""torchaudio can be imported with any torch build, and transformers after it."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# a finder that breaks the compiled extension, whatever torch this machine has
BREAK = """
import importlib.abc, sys
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio._extension":
            raise {error}("libcudart.so.13: cannot open shared object file")
sys.meta_path.insert(0, Broken())
"""
USE = """
import data
import torch, torchaudio.transforms, transformers
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
assert torchaudio.transforms.Resample(8000, 16000)(torch.zeros(800)).shape == (1600,)
print("works")
"""


def run(code: str) -> str:
    """Run code in a fresh interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_data_makes_torchaudio_and_transformers_importable_here() -> None:
    assert run(USE) == "works"


def test_an_extension_that_fails_to_load_does_not_matter() -> None:
    # only the first import meets the finder: the second finds the stand-in in sys.modules
    both = BREAK.format(error="OSError") + USE
    both += "assert not torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE\n"
    both += "assert torchaudio._extension.fail_if_no_align(run := print) is run\n"
    assert run(both) == "works"


def test_data_imports_neither_models_nor_datasets_nor_processes() -> None:
    code = """
import sys
import data.dataloader, data.manifest, data.config_parser
names = ("accelerate", "transformers", "datasets", "eval", "trainer")
print([name for name in names if name in sys.modules])
"""
    assert run(code) == "[]"
