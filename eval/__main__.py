"""`python -m eval MODEL CORPUS` scores a Whisper; `python -m eval compare A B CORPUS`, two."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from accelerate import Accelerator
from rich.console import Console

from data.atomic_files import write_json
from data.command_help import (
    HELP,
    parse_command,
    print_commands,
    print_own_help,
    refuse_renamed,
)
from data.config import DataConfig
from data.corpora import read
from data.errors import plain_errors
from data.manifest import read_held_out, scan_cache_path
from data.screening.filters import count_reasons
from eval.config import EvalConfig
from eval.device import Precision, build_evaluation_accelerator
from eval.evaluate import Evaluator, save
from eval.faster_whisper_model import (
    FasterWhisperModel,
    is_faster_whisper_model,
    load_faster_whisper_model,
)
from eval.label_errors.command import LabelErrorsConfig, find_label_errors
from eval.metrics.compare import Compare, compare, read_hypotheses
from eval.metrics.scores import Hypothesis, short_names
from eval.probes.hallucination import HallucinationCounts
from eval.probes.noise_clips import transcribe_noise
from eval.report.console_tables import difference_table, score_table, sentences
from eval.report.page import ReportConfig, report, write_page
from eval.transcribe.command import TranscribeCommand, transcribe_files
from eval.transcribe.gradio_app import TryCommand, try_out
from eval.whisper import Whisper, load_whisper


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions:
    """How to score, whatever is scored."""

    split: str = "test"  # Split of the corpus to score.
    # Whisper's code of the language, one for all corpora or one for each. None takes what the
    # corpus says.
    language: tuple[str, ...] = ()
    out: str = "runs/eval"  # Folder that gets a folder with the results.
    # Number format. auto takes bf16 or fp16 on a GPU, and fp32 on a CPU.
    precision: Precision = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def accelerator(self) -> Accelerator:
        """Return the devices to compute on."""
        return build_evaluation_accelerator(self.precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCommand(ScoreOptions):
    """Score a Whisper model on a corpus."""

    # A folder, a name on the Hub, or a CTranslate2 model's folder (with the extra ct2).
    model: tyro.conf.Positional[str]
    # Folders, manifests or names on the Hugging Face Hub.
    corpus: tyro.conf.Positional[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareCommand(ScoreOptions):
    """Test whether model B is better than model A."""

    a: tyro.conf.Positional[str]  # A model, or a folder that an evaluation wrote.
    b: tyro.conf.Positional[str]  # Another model, or another folder that an evaluation wrote.
    # Corpora to score two models on. Two folders need none.
    corpus: tyro.conf.Positional[tuple[str, ...]] = ()


def score(command: ScoreCommand) -> None:
    """Read, transcribe, score, and show."""
    accelerator = command.accelerator()
    _evaluate(command, accelerator, command.model, command.corpus, _short(command.model))


def compare_two(command: CompareCommand) -> None:
    """Compare two models, or what two models heard, and write compare.json."""
    out, names = Path(command.out), (command.a, command.b)
    if command.corpus:
        short = [_short(name) for name in names]
        if short[0] == short[1]:
            short = [f"{short[0]}-a", f"{short[1]}-b"]
        accelerator = command.accelerator()
        first, second = (
            _evaluate(command, accelerator, model, command.corpus, name)
            for model, name in zip(names, short, strict=True)
        )
        if not accelerator.is_main_process:
            return
        end = f"-{Path(command.corpus[0]).name}-{command.split}"
    else:
        first, second = (read_hypotheses(Path(name)) for name in names)
        short = [name.strip("/").replace("/", "-") for name in short_names(names)]
        end = ""
    found = compare(first, second, command.eval.normalizer, command.eval.error_unit)
    folder = out / f"{short[0]}-vs-{short[1]}{end}"
    alone = [_left_out(one, other) for one, other in ((first, second), (second, first))]
    write_json(folder / "compare.json", _told(found, names, alone))
    console = Console(highlight=False)
    console.print(difference_table(found, names))
    if any(alone):
        console.print(f"left out: {alone[0]} that only A heard, {alone[1]} that only B heard")
    for sentence in sentences(found):
        console.print(sentence, soft_wrap=True)
    console.print(f"all of it: {folder / 'compare.json'}", soft_wrap=True)


def _left_out(one: list[Hypothesis], other: list[Hypothesis]) -> int:
    """Return how many utterances only the first has."""
    return len({h.utterance.id for h in one} - {h.utterance.id for h in other})


def _told(found: list[Compare], names: tuple[str, str], alone: list[int]) -> dict[str, Any]:
    models = {"a": names[0], "b": names[1], "only_a": alone[0], "only_b": alone[1]}
    return {**models, "languages": {each.name: each.to_json() for each in found}}


def _evaluate(
    knobs: ScoreOptions, accelerator: Accelerator, model: str, corpus: tuple[str, ...], name: str
) -> list[Hypothesis]:
    """Score a model, show and write its figures, and return what it heard."""
    language = knobs.language or knobs.data.language
    data = replace(knobs.data, corpus=corpus, language=language)
    whisper, evaluator = _loaded(knobs, accelerator, model, data)
    out, console = Path(knobs.out), Console(highlight=False)
    show = accelerator.is_main_process
    cache = scan_cache_path(out.parent, data)
    utterances, drops = read_held_out(data, whisper.labels(), cache, split=knobs.split, show=show)
    warning = foreign(whisper, data, knobs.split)
    if warning and show:
        console.print(f"warning: {warning}", soft_wrap=True)
    short = knobs.eval.pad == "bucket"
    scores, hypotheses = evaluator.evaluate(utterances, knobs.split, true_length=short)
    meters = HallucinationCounts.of(
        hypotheses, transcribe_noise(evaluator, hypotheses, true_length=short)
    )
    if show:
        left_out = count_reasons(drops).get(knobs.split, {})
        folder = out / f"{name}-{Path(corpus[0]).name}-{knobs.split}"
        facts = {"model": model, "left_out": left_out, "true_length": short}
        save(folder, scores, hypotheses, meters=meters.to_json(), **facts)
        write_page(folder, audio=knobs.eval.audio, embed_clips=knobs.eval.embed_clips)
        console.print(score_table(scores, f"{model} on {knobs.split}"))
        console.print(str(meters), soft_wrap=True)
        console.print(f"left out: {left_out or 'nothing'}\nscores, texts and report.html: {folder}")
    return hypotheses


def _loaded(
    knobs: ScoreOptions, accelerator: Accelerator, model: str, data: DataConfig
) -> tuple[Whisper | FasterWhisperModel, Evaluator | FasterWhisperModel]:
    """Load a model, and return it with what scores it."""
    if is_faster_whisper_model(model):
        ct2 = load_faster_whisper_model(model, knobs.eval, knobs.precision)
        return ct2, ct2
    whisper = load_whisper(model)
    whisper.model.to(accelerator.device)
    return whisper, Evaluator(
        accelerator=accelerator, whisper=whisper, data=data, config=knobs.eval
    )


def foreign(whisper: Whisper | FasterWhisperModel, data: DataConfig, split: str) -> str | None:
    """Return a sentence where a corpus is in another language than the model's, or None."""
    mine = whisper.language
    if mine is None:
        return None
    found = {u.language for u in read(data, split) if u.language} - {mine}
    if not found:
        return None
    kind = "fine-tuned for" if whisper.multilingual else "trained only on"
    return (
        f"{whisper.name} was {kind} {mine}, but split {split} holds {', '.join(sorted(found))}: "
        "its figures tell little"
    )


def _short(model: str) -> str:
    """Return a name for a folder: a run's model is runs/NAME/model, so NAME tells it apart."""
    path = Path(model)
    return path.parent.name if path.name == "model" else path.name


COMMANDS: dict[str, tuple[type, Callable[[Any], object]]] = {
    "compare": (CompareCommand, compare_two),
    "report": (ReportConfig, report),
    "label-errors": (LabelErrorsConfig, find_label_errors),
    "transcribe": (TranscribeCommand, transcribe_files),
    "try": (TryCommand, try_out),
}
RENAMED = {"suspects": "label-errors"}
PROG = "python -m eval"


def main() -> None:
    """Score, or run the command that the first word names.

    Raises:
        SystemExit: an argument is wrong (status 2), or asks for help (0).
    """
    name, *rest = sys.argv[1:] or [""]
    with plain_errors():
        refuse_renamed(name, RENAMED, PROG)
        if name in HELP:
            print_own_help(ScoreCommand, PROG)
            print_commands(COMMANDS, PROG)
        elif name in COMMANDS:
            config, run = COMMANDS[name]
            run(parse_command(config, rest, f"{PROG} {name}"))
        else:
            score(parse_command(ScoreCommand, sys.argv[1:], PROG))


if __name__ == "__main__":
    main()
