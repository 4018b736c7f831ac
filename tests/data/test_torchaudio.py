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
        # only the first import gets here: the second finds the stand-in in sys.modules
        if name == "torchaudio._extension":
            raise OSError("libcudart.so.13: cannot open shared object file")
sys.meta_path.insert(0, Broken())
"""
IMPORT = """
import data.dataloader, data.manifest, data.config_parser
names = ("accelerate", "transformers", "datasets", "eval", "trainer")
print([name for name in names if name in sys.modules])
"""
USE = """
import torch, torchaudio.transforms, transformers
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
assert torchaudio.transforms.Resample(8000, 16000)(torch.zeros(800)).shape == (1600,)
assert not torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE
assert torchaudio._extension.fail_if_no_align(run := print) is run
print("works")
"""


def test_transformers_can_be_imported_after_data_though_the_extension_fails_to_load() -> None:
    # where it does load, every other test begins with these imports
    done = subprocess.run(
        [sys.executable, "-c", BREAK + IMPORT + USE],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    imported, used = done.stdout.splitlines()
    assert imported == "[]"  # data imports no models, data sets or processes
    assert used == "works"
