"""The code of the guides runs as one program, and both guides have the same code."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_module
from tests.guide import ROOT, Block, blocks_of, missing_from, run

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


def test_the_guide_runs_as_far_as_its_recipe_and_prints_what_it_shows(tmp_path: Path) -> None:
    blocks = blocks_of(ENGLISH)
    recipe = next(n for n, block in enumerate(blocks) if "cat > guide.yaml" in block.text)
    assert_prints_what_it_shows(blocks[:recipe], tmp_path)


@pytest.mark.slow  # every command of the guide is a start from nothing
def test_the_guide_runs_from_end_to_end_and_prints_what_it_shows(tmp_path: Path) -> None:
    # comments apart, the other one is the same program
    assert_prints_what_it_shows(blocks_of(ENGLISH), tmp_path)
    assert (tmp_path / "runs" / "guide" / "model" / "model.safetensors").is_file()


def assert_prints_what_it_shows(blocks: list[Block], folder: Path) -> None:
    """Run blocks of a guide; each text block is in what the block before it printed."""
    pytest.importorskip("espeakng_loader")
    printed = run(blocks, folder)
    shown = [number for number, block in enumerate(blocks) if block.kind == "text"]
    assert len(shown) >= 8
    for number in shown:
        assert missing_from(printed[number - 1], blocks[number].text) is None


def test_the_readmes_python_example_transcribes(
    trainer: Any, tone_corpus: Path, tmp_path: Path
) -> None:
    (code,) = (block.text for block in blocks_of(README) if block.kind == "python")
    model = trainer.reference() / "model"
    clip = min((tone_corpus / "clips").glob("*test*"))
    for shown, used in (("runs/demo/model", model), ("speech.flac", clip)):
        assert shown in code
        code = code.replace(shown, str(used))
    example = tmp_path / "example.py"
    example.write_text(code, encoding="utf-8")
    done = run_module(str(example), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
