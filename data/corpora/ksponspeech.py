"""KsponSpeech of AI-Hub: spontaneous Korean in .pcm, listed in .trn files or each next to a .txt.

A .trn is named after its split, and has one `KsponSpeech_01/KsponSpeech_0001/KsponSpeech_000001.pcm
:: text` per line. For the marks in transcripts see Bang et al., "KsponSpeech: Korean Spontaneous
Speech Corpus for Automatic Speech Recognition", https://www.mdpi.com/2076-3417/10/19/6936
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from data.audio.open_audio import PCM_BYTES_PER_SECOND
from data.config import DataConfig
from data.corpora.find_files import peek, subfolders, walk
from data.corpora.text_tables import UTF_8, read_lines, read_text
from data.corpora.transcript_rules import Rule, apply
from data.errors import InputError
from data.paths import resolve_inside
from data.utterance import Utterance

DESCRIPTION = "*.trn or KsponSpeech_*"
ENCODINGS = (UTF_8, "cp949")  # of .trn and .txt; Hangul in CP949 is never valid UTF-8
TEXT = re.compile(r"KsponSpeech_\w+\.txt")  # excludes README.txt
SCRIPTS = (
    "KsponSpeech_scripts",
    "scripts",
    "",
)  # folders of .trn files; later ones take precedence

BOTH = re.compile(r"\(([^()]*)\)\s*/\s*\(([^()]*)\)")  # (70%)/(칠 십 퍼센트)
UNDIVIDED = re.compile(r"\(([^()]*)\)\s*\(([^()]*)\)")  # in some lines: (100%)(백 프로)
NOISE = re.compile(r"(?<![A-Za-z])(?:[blonu]/)+(?![A-Za-z]) ?")
REPEAT = re.compile(r"(?<![A-Za-z0-9+])\++")  # 모+ 몬; keeps C++
FILLER = re.compile(r"(?<=[가-힣])/|(?<=\w)/(?=\s|$)")  # 아/ 그래; keeps 1/2


def _rules(kept: str) -> tuple[Rule, ...]:
    """Return the text rules, where `kept` is what to keep of (spelling)/(pronunciation)."""
    group = r"\1" if kept == "spelling" else r"\2"
    return (
        Rule("noise marks b/ l/ o/ n/ u/ removed", lambda t: NOISE.sub("", t)),
        Rule(f"{kept} kept of (spelling)/(pronunciation)", lambda t: BOTH.sub(group, t)),
        Rule(f"{kept} kept, slash missing", lambda t: UNDIVIDED.sub(group, t)),
        Rule("+ of repeated words removed", lambda t: REPEAT.sub("", t)),
        Rule("* of unclear words removed", lambda t: t.replace("*", "")),
        Rule("/ of fillers removed", lambda t: FILLER.sub("", t)),
        Rule("runs of spaces joined", lambda t: " ".join(t.split())),
    )


RULES = {kept: _rules(kept) for kept in ("spelling", "pronunciation")}


def matches(path: Path) -> bool:
    """Return whether a folder has KsponSpeech's layout."""
    if any(name.startswith("KsponSpeech_") or name.endswith(".trn") for name in peek(path)):
        return True
    return any(path.glob("scripts/*.trn"))


def read(config: DataConfig, corpus: str, split: str) -> Iterator[Utterance]:
    """Yield the clips of SPLIT.trn; without any .trn, all .pcm files next to a .txt are `train`.

    Raises:
        InputError: the split is missing, or a .trn has another format or encoding.
    """
    root = Path(corpus)
    scripts = _scripts(root)
    if split in scripts:
        rows = _listed(root, scripts[split])
    elif not scripts and split == "train":
        rows = _paired(root)
    else:
        known = ", ".join(sorted(scripts)) or "train, since there is no .trn at all"
        raise InputError(f"{root}: has no {split}.trn; its splits: {known}")
    for audio, text, fault in rows:
        transcript, rules = apply(text, RULES[config.spelling])
        yield Utterance(
            id=f"{root.name}/{Path(audio).stem}",
            audio=audio,
            text=transcript,
            seconds=_seconds(audio),
            language="ko",
            rules=rules,
            fault=fault,
        )


def _scripts(root: Path) -> dict[str, Path]:
    """Return the .trn files by split."""
    return {path.stem: path for name in SCRIPTS for path in (root / name).glob("*.trn")}


def _listed(root: Path, script: Path) -> Iterator[tuple[str, str, str]]:
    """Yield path, text and fault of each line."""
    existing = set(subfolders(root))
    for number, line in read_lines(script, ENCODINGS):
        name, divider, text = line.partition("::")
        if not divider:
            raise InputError(
                f"{script}, line {number}: expected PATH.pcm :: TEXT, got {line[:80]!r}"
            )
        first, *rest = name.strip().split("/")
        # eval_clean and eval_other are listed below KsponSpeech_eval, a folder that may be missing
        extra = len(rest) > 1 and first not in existing and rest[0] in existing
        yield resolve_inside(root, "/".join(rest) if extra else name.strip(), script), text, ""


def _paired(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield path, text and fault of each .pcm, and of each .txt without one."""
    for folder, names in walk(root):
        existing = set(names)
        stems = {name[:-4] for name in names if name.endswith(".pcm") or TEXT.fullmatch(name)}
        for stem in sorted(stems):
            place = str(folder.relative_to(root) / stem)
            text, fault = "", "no transcript"
            if f"{stem}.txt" in existing:
                text, fault = read_text(Path(resolve_inside(root, f"{place}.txt", root)), ENCODINGS)
            yield resolve_inside(root, f"{place}.pcm", root), text, fault


def _seconds(audio: str) -> float:
    """Return the duration by file size; 0 if there is no file."""
    try:
        return os.stat(audio).st_size // 2 * 2 / PCM_BYTES_PER_SECOND
    except OSError:
        return 0.0
