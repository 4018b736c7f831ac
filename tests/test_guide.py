"""The code of the guides runs as one program, and both guides have the same code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guide import ROOT, blocks_of, environment, missing_from, run

README = ROOT / "README.md"
GUIDES = [ROOT / "docs" / name for name in ("guide.md", "guide.zh-TW.md")]
ENGLISH, MANDARIN = GUIDES


def test_both_guides_have_the_same_code_in_the_same_order() -> None:
    english, mandarin = (blocks_of(guide) for guide in GUIDES)
    assert [block.kind for block in english] == [block.kind for block in mandarin]
    for ours, theirs in zip(english, mandarin, strict=True):
        assert ours.bare() == theirs.bare()


def test_both_guides_have_the_same_chapters() -> None:
    shapes = [re.findall(r"^(#+) ", g.read_text(encoding="utf-8"), re.MULTILINE) for g in GUIDES]
    assert shapes[0] == shapes[1]


def test_the_guide_runs_from_end_to_end_and_prints_what_it_shows(tmp_path: Path) -> None:
    # comments apart, the other one is the same program
    pytest.importorskip("espeakng_loader")
    blocks = blocks_of(ENGLISH)
    printed = run(blocks, tmp_path)
    shown = [number for number, block in enumerate(blocks) if block.kind == "text"]
    assert len(shown) >= 10
    for number in shown:
        assert missing_from(printed[number - 1], blocks[number].text) is None
    assert (tmp_path / "runs" / "guide" / "model" / "model.safetensors").is_file()
    assert readme_example(tmp_path, "runs/guide/model").strip()


def readme_example(folder: Path, model: str) -> str:
    """Run the README's Python example on a clip and a model in a folder; return what it prints."""
    (code,) = (block.text for block in blocks_of(README) if block.kind == "python")
    clip = min((folder / "demo" / "zh-TW" / "clips").glob("*test*"))
    for shown, used in (("runs/demo/model", model), ("speech.flac", str(clip))):
        assert shown in code
        code = code.replace(shown, used)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
