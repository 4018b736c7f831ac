"""Corpora in their real layouts, each of six clips to train on and two for dev."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

RATE = 16_000
CLIPS = {"train": 6, "dev": 2}
KOREAN = ("아/ 몬 소리야", "그+ 그래서 b/ 갔어", "(70%)/(칠 십 퍼센트) 확률이라니 n/")
UNDIVIDED = "(70%)(칠 십 퍼센트) 확률이라니"
MANDARIN = ("而 对 楼市 成交", "抑制 作用 最 大 的", "限 购 ａ ｔ ｍ")
ENGLISH = ("CHAPTER ONE", "MISSUS RACHEL LYNDE", "IS SURPRISED")


def tone(seconds: float = 1.0, frequency: float = 440.0) -> np.ndarray:
    """Return a tone at 16 kHz. Shape: (samples,)."""
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def write_tone(path: Path, seconds: float = 1.0, frequency: float = 440.0) -> Path:
    """Write a tone; the suffix says the format, and .pcm has no header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = {"format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}
    soundfile.write(path, tone(seconds, frequency), RATE, **(raw if path.suffix == ".pcm" else {}))
    return path


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Write lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def ksponspeech(root: Path) -> Path:
    """Write .pcm files, each with a .txt in CP949, and .trn files in UTF-8."""
    for split, first in (("train", 1), ("dev", 620_001)):
        lines = []
        for number in range(first, first + CLIPS[split]):
            name = f"KsponSpeech_01/KsponSpeech_0001/KsponSpeech_{number:06d}"
            text = KOREAN[number % 3]
            write_tone(root / f"{name}.pcm", 1 + number % 2)
            write(root / f"{name}.txt", text, encoding="cp949")
            lines.append(f"{name}.pcm :: {text}")
        write(root / "scripts" / f"{split}.trn", *lines)
    return root


def ksponspeech_eval(root: Path) -> Path:
    """Write lists in CP949, half a sample too much, a missing slash, and a folder too many."""
    folders = {"train": "KsponSpeech_01/KsponSpeech_0001", "eval_clean": "eval_clean"}
    for (split, folder), count in zip(folders.items(), CLIPS.values(), strict=True):
        kind = "0" if split == "train" else "E"
        names = [f"{folder}/KsponSpeech_{kind}{number:05d}.pcm" for number in range(count)]
        for name in names:
            audio = write_tone(root / name)
            audio.write_bytes(audio.read_bytes() + b"\x01")
        above = "" if split == "train" else "KsponSpeech_eval/"
        lines = (f"{above}{name} :: {UNDIVIDED}" for name in names)
        write(root / f"{split}.trn", *lines, encoding="cp949")
    return root


def ksponspeech_texts(root: Path) -> Path:
    """Write the same without .trn files."""
    ksponspeech(root)
    for script in (root / "scripts").iterdir():
        script.unlink()
    return root


def aishell(root: Path) -> Path:
    """Write folders of speakers, and one list of transcripts for all."""
    lines = []
    for split, speaker in (("train", "S0002"), ("dev", "S0724")):
        for number in range(CLIPS[split]):
            name = f"BAC009{speaker}W{122 + number:04d}"
            write_tone(root / "data_aishell" / "wav" / split / speaker / f"{name}.wav")
            lines.append(f"{name} {MANDARIN[number % 3]}")
    write(root / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt", *lines)
    return root


def librispeech(root: Path) -> Path:
    """Write chapters, each with its list of texts."""
    for split, chapter in (("train-clean-100", "19-198"), ("dev-clean", "84-121123")):
        folder = root / "LibriSpeech" / split / chapter.replace("-", "/")
        lines = []
        for number in range(CLIPS[split.split("-")[0]]):
            write_tone(folder / f"{chapter}-{number:04d}.flac")
            lines.append(f"{chapter}-{number:04d} {ENGLISH[number % 3]}")
        write(folder / f"{chapter}.trans.txt", *lines)
    return root


def kaldi(root: Path) -> Path:
    """Write data directories: slices of one long recording, and recordings that are whole."""
    long = write_tone(root / "audio" / "long.wav", 6.0)
    train, dev = root / "data" / "train", root / "data" / "dev"
    names = [f"ann-{number}" for number in range(CLIPS["train"])]
    write(train / "wav.scp", f"rec1 {long}")
    write(train / "segments", *(f"{n} rec1 {i}.0 {i + 1}.0" for i, n in enumerate(names)))
    write(train / "text", *(f"{n} {ENGLISH[i % 3].lower()}" for i, n in enumerate(names)))
    write(train / "utt2spk", *(f"{n} ann" for n in names))
    names = [f"bob-{number}" for number in range(CLIPS["dev"])]
    files = [write_tone(root / "audio" / f"{n}.flac") for n in names]
    write(dev / "wav.scp", *(f"{n} {file}" for n, file in zip(names, files, strict=True)))
    write(dev / "text", *(f"{n} one" for n in names))
    write(dev / "spk2utt", f"bob {' '.join(names)}")
    write(dev / "reco2dur", *(f"{n} 1.0" for n in names))
    return root / "data"


def folder(root: Path) -> Path:
    """Write audio files with a .txt beside each."""
    for split, count in CLIPS.items():
        for number in range(count):
            path = write_tone(root / split / "ann" / f"{number}.mp3")
            write(path.with_suffix(".txt"), f"one two {number}")
    return root


def audiofolder(root: Path) -> Path:
    """Write a metadata.csv for one split, and a metadata.jsonl for the other."""
    names = {split: [f"clips/{n}.ogg" for n in range(count)] for split, count in CLIPS.items()}
    for split, files in names.items():
        for name in files:
            write_tone(root / split / name)
    with (root / "train" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "transcription", "speaker_id", "language", "age"])
        rows.writerows([name, 'one, "two"', "ann", "en-US", 30] for name in names["train"])
    rows_of_dev = ({"file_name": n, "text": "one", "language": "en"} for n in names["dev"])
    write(root / "dev" / "metadata.jsonl", *map(json.dumps, rows_of_dev))
    return root


def manifest(root: Path) -> Path:
    """Write slices of one long recording, as JSON Lines and as CSV."""
    write_tone(root / "audio" / "long.flac", 8.0)
    rows = [
        {"path": "audio/long.flac", "text": "one two", "start": i, "end": i + 1, "language": "en"}
        for i in range(8)
    ]
    write(root / "train.jsonl", *map(json.dumps, rows[:6]))
    cells = (",".join(map(str, row.values())) for row in rows[6:])
    write(root / "dev.csv", ",".join(rows[0]), *cells)
    return root


def common_voice(root: Path) -> Path:
    """Write a release of today: lengths in a table of their own."""
    columns = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender"
    header = f"{columns} accents variant locale segment".replace(" ", "\t")
    lengths = ["clip\tduration[ms]"]
    for split, count in CLIPS.items():
        names = [f"common_voice_en_{split}_{number}.mp3" for number in range(count)]
        rows = (f'{split}\t{n}\t\tone "two"\t\t2\t0\t\t\t\t\ten\t' for n in names)
        write(root / "en" / f"{split}.tsv", header, *rows)
        lengths += [f"{n}\t1000" for n in names]
        for name in names:
            write_tone(root / "en" / "clips" / name)
    write(root / "en" / "clip_durations.tsv", *lengths)
    return root / "en"


def common_voice_1(root: Path) -> Path:
    """Write the first release: no lengths, no locale, clips named without .mp3."""
    corpus = common_voice(root)
    (corpus / "clip_durations.tsv").unlink()
    for split, count in CLIPS.items():
        rows = (f"{split}\tcommon_voice_en_{split}_{n}\tone\t2\t0\t\t\t" for n in range(count))
        header = "client_id path sentence up_votes down_votes age gender accent"
        write(corpus / f"{split}.tsv", header.replace(" ", "\t"), *rows)
    return corpus


class Case(NamedTuple):
    """A layout, and the knobs that a person sets for it."""

    name: str  # of the layout
    build: Callable[[Path], Path]  # returns what data.corpus names
    knobs: dict[str, Any]


CASES = [
    Case("ksponspeech", ksponspeech, {}),
    Case("ksponspeech", ksponspeech_texts, {"dev_split": None}),
    Case("ksponspeech", ksponspeech_eval, {"dev_split": "eval_clean"}),
    Case("common_voice", common_voice, {}),
    Case("common_voice", common_voice_1, {}),
    Case("aishell", aishell, {}),
    Case("librispeech", librispeech, {"train_split": "train-clean-100", "dev_split": "dev-clean"}),
    Case("kaldi", kaldi, {"language": ("en",)}),
    Case("folder", folder, {"language": ("en",)}),
    Case("audiofolder", audiofolder, {}),
    Case("manifest", manifest, {}),
]
