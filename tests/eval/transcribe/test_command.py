"""`python -m eval transcribe`: every file is transcribed, or listed as a failure."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from data.config_parser import parse_dataclass
from data.corpora.subtitle_parser import parse
from data.errors import InputError
from data.labels import LAST_TIME
from eval.transcribe.command import TranscribeCommand, transcribe_files

SHORT = "--eval.max_length=16"
REAL = Path(os.environ.get("WHISPER_LOOP_REALDATA", "/nowhere"))
Transcribe = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory, blank_model: Path) -> Path:
    """Return the folder of a model with timestamp tokens."""
    model = WhisperForConditionalGeneration.from_pretrained(blank_model)
    torch.manual_seed(0)
    model.resize_token_embeddings(model.config.vocab_size + LAST_TIME + 1, mean_resizing=False)
    out = tmp_path_factory.mktemp("timed") / "model"
    model.save_pretrained(out)
    WhisperProcessor.from_pretrained(blank_model).save_pretrained(out)
    return out


@pytest.fixture
def transcribe(timed: Path, tmp_path: Path) -> Transcribe:
    """Return a function that runs the command with that model."""

    def run(*arguments: object, model: Path = timed, out: bool = True) -> Path:
        folder = tmp_path / "out"
        told = [SHORT, *map(str, arguments), f"--model={model}"]
        told += [f"--out={folder}"] if out else []
        transcribe_files(parse_dataclass(TranscribeCommand, told))
        return folder

    return run


@pytest.fixture
def clips(tmp_path: Path, write_clip: Any) -> Path:
    """Return a folder with two clips, one in a subfolder, and a file that is not audio."""
    folder = tmp_path / "clips"
    write_clip(folder / "a.wav", 1.0)
    write_clip(folder / "below" / "b.flac", 2.0, 48_000, 2)
    (folder / "notes.txt").write_text("no audio")
    return folder


def written(folder: Path) -> list[str]:
    """Return the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_file_of_a_folder_is_written_in_each_format(
    transcribe: Transcribe, clips: Path
) -> None:
    out = transcribe(clips, "--format", "txt", "srt", "vtt", "json", "--language=en")
    kinds = ("json", "srt", "txt", "vtt")
    assert written(out) == [
        *(f"a.{kind}" for kind in kinds),
        *(f"below/b.{kind}" for kind in kinds),
    ]
    for name, seconds in (("a", 1.0), ("below/b", 2.0)):
        told = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        assert (told["seconds"], told["language"], told["task"]) == (seconds, "en", "transcribe")
        assert (out / f"{name}.txt").read_text(encoding="utf-8") == told["text"] + "\n"
        edges = [each[edge] for each in told["segments"] for edge in ("start", "end")]
        assert edges
        assert edges == sorted(edges)
        assert edges[-1] <= seconds
        for kind in ("srt", "vtt"):
            cues = list(parse((out / f"{name}.{kind}").read_text(encoding="utf-8")))
            assert [edge for cue in cues for edge in (cue.start, cue.end)] == edges


def test_a_pattern_and_a_file_named_twice_is_transcribed_once(
    transcribe: Transcribe, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = transcribe(clips / "a.wav", clips / "*.wav", clips / "**" / "*.flac")
    assert written(out) == ["a.txt", "b.txt"]
    assert capsys.readouterr().out.splitlines() == [str(out / "a.txt"), str(out / "b.txt")]


def test_one_text_is_printed_alone_and_several_below_their_names(
    transcribe: Transcribe, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = transcribe(clips)
    alone = (out / "a.txt").read_text(encoding="utf-8")
    capsys.readouterr()
    transcribe(clips / "a.wav", out=False)
    assert capsys.readouterr().out == alone
    transcribe(clips, out=False)
    assert capsys.readouterr().out.startswith(f"{clips / 'a.wav'}:\n{alone}")
    transcribe(clips / "a.wav", "--format=vtt", out=False)
    assert capsys.readouterr().out.startswith("WEBVTT\n\n")


def test_long_audio_is_transcribed_whole_between_short_clips(
    transcribe: Transcribe, tmp_path: Path, write_clip: Any
) -> None:
    for name, seconds in (("a", 1.0), ("b", 61.0), ("c", 1.0)):
        write_clip(tmp_path / "clips" / f"{name}.wav", seconds)
    out = transcribe(tmp_path / "clips", "--format", "json")
    told = {name: json.loads((out / f"{name}.json").read_text()) for name in "abc"}
    assert told["a"]["text"] == told["c"]["text"]
    assert told["b"]["segments"][-1]["end"] > 30
    assert told["b"]["segments"][-1]["end"] <= 61
    assert "".join(s["text"] for s in told["b"]["segments"]).replace(" ", "") == told["b"][
        "text"
    ].replace(" ", "")


def test_eval_knobs_control_decoding(transcribe: Transcribe, clips: Path) -> None:
    knobs = ("--eval.num_beams=2", "--eval.fallback=true", "--eval.pad=bucket")
    out = transcribe(clips / "a.wav", "--format=json", "--task=translate", *knobs)
    assert json.loads((out / "a.json").read_text())["task"] == "translate"


def test_without_a_language_the_models_own_or_a_detected_one_is_used(
    transcribe: Transcribe, clips: Path, timed: Path, tmp_path: Path
) -> None:
    def language(model: Path) -> str:
        out = transcribe(clips / "a.wav", "--format=json", model=model)
        return str(json.loads((out / "a.json").read_text())["language"])

    assert language(timed) in ("en", "zh")
    tuned = tmp_path / "tuned"
    model = WhisperForConditionalGeneration.from_pretrained(timed)
    model.generation_config.language = "zh"
    model.save_pretrained(tuned)
    WhisperProcessor.from_pretrained(timed).save_pretrained(tuned)
    assert language(tuned) == "zh"


def test_a_run_folder_is_resolved_to_its_model(
    transcribe: Transcribe, clips: Path, timed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("run_dir: run\n")
    with pytest.raises(InputError, match="this run has written no model yet"):
        transcribe(clips, model=run)
    (run / "model").symlink_to(timed)
    assert written(transcribe(clips, model=run)) == ["a.txt", "below/b.txt"]


def test_unreadable_files_are_listed_at_the_end_and_the_others_written(
    transcribe: Transcribe, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    broken = clips / "0.wav"
    broken.write_text("no audio")
    with pytest.raises(InputError) as told:
        transcribe(broken, clips, tmp_path / "gone.wav", tmp_path / "empty", tmp_path / "*.mp3")
    assert written(tmp_path / "out") == ["a.txt", "below/b.txt"]
    for part in (
        "4 not transcribed: ",
        f"{broken}: unreadable (",
        f"{tmp_path}/gone.wav: no such file",
        f"{tmp_path}/empty: no audio in this folder",
        f"{tmp_path}/*.mp3: no file matches",
    ):
        assert part in str(told.value)


def test_only_the_first_of_many_failures_are_listed(transcribe: Transcribe) -> None:
    with pytest.raises(InputError, match=r"^7 not transcribed: /0\.wav: .*; and 2 more$"):
        transcribe(*(f"/{number}.wav" for number in range(7)))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--language=xx",), "does not support language 'xx'"),
        (("--precision=fp16",), "precision=fp16 needs a GPU"),
        (("--eval.num_beams=0",), "eval.num_beams must be at least 1"),
    ],
)
def test_unsupported_options_are_input_errors(
    transcribe: Transcribe, clips: Path, arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        transcribe(clips, *arguments)


def test_a_model_without_timestamps_writes_text_but_no_subtitles(
    transcribe: Transcribe, clips: Path, blank_model: Path
) -> None:
    with pytest.raises(InputError, match="no timestamp tokens, which subtitles need"):
        transcribe(clips, "--format=srt", model=blank_model)
    assert written(transcribe(clips, model=blank_model)) == ["a.txt", "below/b.txt"]


def test_an_english_only_model_rejects_other_languages(
    transcribe: Transcribe, clips: Path, timed: Path, tmp_path: Path
) -> None:
    english = tmp_path / "english"
    model = WhisperForConditionalGeneration.from_pretrained(timed)
    model.generation_config.is_multilingual = False
    model.save_pretrained(english)
    WhisperProcessor.from_pretrained(timed).save_pretrained(english)
    for told in ("--language=zh", "--task=translate"):
        with pytest.raises(InputError, match="is English-only"):
            transcribe(clips, told, model=english)
    assert written(transcribe(clips, "--language=en", model=english)) == ["a.txt", "below/b.txt"]


def test_ambiguous_output_is_rejected(transcribe: Transcribe, clips: Path, write_clip: Any) -> None:
    with pytest.raises(InputError, match="one can be printed"):
        transcribe(clips, "--format", "txt", "srt", out=False)
    with pytest.raises(InputError, match="2 files as srt cannot be printed"):
        transcribe(clips, "--format", "srt", out=False)
    with pytest.raises(InputError, match="nothing to transcribe"):
        transcribe()
    twin = write_clip(clips / "twin" / "a.flac", 1.0)
    with pytest.raises(InputError, match="would both be written as a"):
        transcribe(clips / "a.wav", twin)


def test_an_output_folder_that_cannot_be_created_is_an_input_error(
    transcribe: Transcribe, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="the folder cannot be created"):
        transcribe(clips)


@pytest.mark.parametrize("arguments", [("--format=docx",), ("--task=sing",)])
def test_an_unknown_format_is_rejected(
    transcribe: Transcribe, clips: Path, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as left:
        transcribe(clips, *arguments)
    assert left.value.code == 2


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="WHISPER_LOOP_REALDATA names no folder")
def test_a_real_recording_over_30_s_is_transcribed_with_correct_times(
    transcribe: Transcribe, tmp_path: Path
) -> None:
    model = tmp_path / "tiny.en"
    subprocess.run([sys.executable, REAL / "make_whisper.py", "tiny.en", model], check=True)
    clips = REAL / "joined" / "en" / "clips"
    names = ("common_voice_en_test_00000", "common_voice_en_train_00039")
    arguments = [str(clips / f"{name}.mp3") for name in names]
    out = transcribe(*arguments, "--format", "srt", "json", "--eval.max_length=225", model=model)
    short, long = (json.loads((out / f"{name}.json").read_text()) for name in names)
    assert "The number you have dialed is not in service." in short["text"]
    assert long["seconds"] > 31
    assert "Press 1 to accept this call" in long["segments"][0]["text"]
    assert "bye" in long["segments"][-1]["text"]
    assert 28 < long["segments"][-1]["start"] < long["segments"][-1]["end"] <= long["seconds"]
    cues = list(parse((out / f"{names[1]}.srt").read_text(encoding="utf-8")))
    assert " ".join(cue.text for cue in cues) == long["text"]
