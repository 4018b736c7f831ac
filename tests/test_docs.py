"""Links, headings, knobs and flags that documents name exist, and prose is wrapped."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from data.__main__ import COMMANDS as DATA
from data.config_parser import REMOVED
from eval.__main__ import COMMANDS as EVAL
from eval.__main__ import ScoreCommand
from trainer.commands.doctor import DoctorConfig
from trainer.commands.find_batch_size import FindBatchSizeConfig
from trainer.commands.plan import PlanConfig
from trainer.commands.publish import ExportConfig
from trainer.commands.tiny_model import TinyModelConfig
from trainer.config import Config

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PROSE = [*DOCS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
ON_RECORD = {"ablation.md", "reliability.md"}  # they name knobs that were removed
COLUMNS = 100
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SECTIONS = {f.name: f for f in fields(Config) if is_dataclass(f.default_factory)}
KNOB = re.compile(
    rf"(?<![\w./-])(?:--)?((?:{'|'.join(SECTIONS)}|publish)\.[a-z]\w*(?:\.[a-z]\w*)?)"
)
NO_KNOBS = re.compile(r"\.(?:py|md|jsonl?|yaml|html|srt|bin|safetensors|config|scores|whisper)\b")
WEIGHTS = re.compile(r"model\.(?:encoder|decoder)\b")  # Whisper's own names, not knobs
COMMAND = re.compile(
    r"(?:python -m (data|eval|trainer)\b|\./launch\.sh|trainer/main\.py)((?:\\\n|[^\n`#│|;])*)"
)
TRAINER = {
    "tiny-model": TinyModelConfig,
    "doctor": DoctorConfig,
    "export": ExportConfig,
    "find-batch-size": FindBatchSizeConfig,
    "plan": PlanConfig,
}


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken(path: Path) -> Iterator[str]:
    """Yield a document's links that lead nowhere."""
    for link in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def long_lines(path: Path) -> list[str]:
    """Return a document's lines of over 100 columns, without tables, code and links' targets."""
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    lines = (re.sub(r"\]\([^)]*\)", "]()", line) for line in text.splitlines())
    return [line for line in lines if len(line) > COLUMNS and not line.startswith(("|", "    "))]


def leaves(kind: Any, before: str = "") -> set[str]:
    """Return the knobs of a dataclass, those of its sections with a dot."""
    found: set[str] = set()
    for each in fields(kind):
        found.add(before + each.name)
        if is_dataclass(each.default_factory):
            found |= leaves(each.default_factory, f"{before}{each.name}.")
    return found


def command_of(room: str, words: str) -> tuple[Any, str]:
    """Return the dataclass that a command is parsed as, and its name; None: it is not ours."""
    first = (words.split() or [""])[0]
    if room in ("", "trainer"):
        return TRAINER.get(first, Config), first
    table = DATA if room == "data" else EVAL
    if first in table:
        return table[first][0], first
    return (ScoreCommand if room == "eval" else None), first


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert list(broken(path)) == []


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_prose_is_wrapped_at_100_columns(path: Path) -> None:
    assert long_lines(path) == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_knob_that_is_named_exists(path: Path) -> None:
    known = leaves(Config) | (REMOVED.keys() if path.name in ON_RECORD else set())
    text = LINK.sub("", path.read_text(encoding="utf-8"))
    quoted = "\n".join(re.findall(r"`[^`\n]+`|^    .+$|^```.*?^```$", text, re.M | re.S))
    named = {
        name for name in KNOB.findall(quoted) if not (NO_KNOBS.search(name) or WEIGHTS.match(name))
    }
    modules = {  # are named alike: `from data.config import …`
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("data", "eval")
        for path in (ROOT / room).rglob("*")
    }
    assert named - known - modules == set()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_flag_of_a_command_exists(path: Path) -> None:
    wrong = []
    for room, words in COMMAND.findall(path.read_text(encoding="utf-8")):
        kind, name = command_of(room, words)
        if kind is None:
            assert name in ("", "COMMAND", "…"), name
            continue
        known = {*leaves(kind), "help", "key"}  # --key=value: any of them
        wrong += [(name, f) for f in re.findall(r"(?<!\S)--([a-z][\w.]*)", words) if f not in known]
    assert wrong == []
