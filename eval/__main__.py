"""Score a model: `python -m eval MODEL CORPUS`; compare two: `python -m eval compare A B`."""

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
from eval.report.console_tables import difference_table, score_table, verdicts
from eval.report.page import ReportConfig, report, write_page
from eval.transcribe.command import TranscribeCommand, transcribe_files
from eval.transcribe.gradio_app import TryCommand, try_out
from eval.whisper import Whisper, load_whisper


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions:
    """Options of scoring, with one model or two."""

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
        """Return an Accelerator with this precision."""
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
    """Score a model, print its error rates, and write the evaluation's folder."""
    accelerator = command.accelerator()
    _evaluate(command, accelerator, command.model, command.corpus, _folder_name(command.model))


def compare_two(command: CompareCommand) -> None:
    """Compare two models, or the files of two evaluations, and write compare.json."""
    out, names = Path(command.out), (command.a, command.b)
    if command.corpus:
        short = [_folder_name(name) for name in names]
        if short[0] == short[1]:
            short = [f"{short[0]}-a", f"{short[1]}-b"]
        accelerator = command.accelerator()
        first, second = (
            _evaluate(command, accelerator, model, command.corpus, name)
            for model, name in zip(names, short, strict=True)
        )
        if not accelerator.is_main_process:
            return
        suffix = f"-{Path(command.corpus[0]).name}-{command.split}"
    else:
        first, second = (read_hypotheses(Path(name)) for name in names)
        short = [name.strip("/").replace("/", "-") for name in short_names(names)]
        suffix = ""
    comparisons = compare(first, second, command.eval.normalizer, command.eval.error_unit)
    folder = out / f"{short[0]}-vs-{short[1]}{suffix}"
    unpaired = _count_missing(first, second), _count_missing(second, first)
    write_json(folder / "compare.json", _to_json(comparisons, names, unpaired))
    console = Console(highlight=False)
    console.print(difference_table(comparisons, names))
    if any(unpaired):
        console.print(f"left out: {unpaired[0]} clips of A only, {unpaired[1]} clips of B only")
    for verdict in verdicts(comparisons):
        console.print(verdict, soft_wrap=True)
    console.print(f"all results: {folder / 'compare.json'}", soft_wrap=True)


def _count_missing(one: list[Hypothesis], other: list[Hypothesis]) -> int:
    """Return the number of utterances of the first list that are not in the second."""
    return len({h.utterance.id for h in one} - {h.utterance.id for h in other})


def _to_json(
    comparisons: list[Compare], names: tuple[str, str], unpaired: tuple[int, int]
) -> dict[str, Any]:
    models = {"a": names[0], "b": names[1], "only_a": unpaired[0], "only_b": unpaired[1]}
    return {**models, "languages": {row.name: row.to_json() for row in comparisons}}


def _evaluate(
    options: ScoreOptions, accelerator: Accelerator, model: str, corpus: tuple[str, ...], name: str
) -> list[Hypothesis]:
    """Score a model, print and save the results, and return the hypotheses.

    Args:
        options: split, language, precision and so on.
        accelerator: the devices.
        model: folder or name on the Hub.
        corpus: folders, manifests or names on the Hub.
        name: prefix of the folder of the results.
    """
    data = replace(options.data, corpus=corpus, language=options.language or options.data.language)
    whisper, evaluator = _load(options, accelerator, model, data)
    out, console = Path(options.out), Console(highlight=False)
    show, split = accelerator.is_main_process, options.split
    cache = scan_cache_path(out.parent, data)
    utterances, drops = read_held_out(data, whisper.labels(), cache, split=split, show=show)
    warning = language_warning(whisper, data, split)
    if warning and show:
        console.print(f"warning: {warning}", soft_wrap=True)
    true_length = options.eval.pad == "bucket"
    scores, hypotheses = evaluator.evaluate(utterances, split, true_length=true_length)
    noise = transcribe_noise(evaluator, hypotheses, true_length=true_length)
    counts = HallucinationCounts.of(hypotheses, noise)
    if show:
        left_out = count_reasons(drops).get(split, {})
        folder = out / f"{name}-{Path(corpus[0]).name}-{split}"
        facts = {"model": model, "left_out": left_out, "true_length": true_length}
        save(folder, scores, hypotheses, meters=counts.to_json(), **facts)
        write_page(folder, audio=options.eval.audio, embed_clips=options.eval.embed_clips)
        console.print(score_table(scores, f"{model} on {split}"))
        console.print(str(counts), soft_wrap=True)
        console.print(f"left out: {left_out or 'nothing'}\nscores, texts and report.html: {folder}")
    return hypotheses


def _load(
    options: ScoreOptions, accelerator: Accelerator, model: str, data: DataConfig
) -> tuple[Whisper | FasterWhisperModel, Evaluator | FasterWhisperModel]:
    """Load a model, and return it with its evaluator."""
    if is_faster_whisper_model(model):
        ct2 = load_faster_whisper_model(model, options.eval, options.precision)
        return ct2, ct2
    whisper = load_whisper(model)
    whisper.model.to(accelerator.device)
    return whisper, Evaluator(
        accelerator=accelerator, whisper=whisper, data=data, config=options.eval
    )


def language_warning(
    whisper: Whisper | FasterWhisperModel, data: DataConfig, split: str
) -> str | None:
    """Return a warning if a split has other languages than that of the model, or None."""
    language = whisper.language
    if language is None:
        return None
    others = {u.language for u in read(data, split) if u.language} - {language}
    if not others:
        return None
    kind = "fine-tuned for" if whisper.multilingual else "trained only on"
    return (
        f"{whisper.name} was {kind} {language}, but split {split} contains "
        f"{', '.join(sorted(others))}: its error rates say little about the model"
    )


def _folder_name(model: str) -> str:
    """Return the name of a model's folder; NAME for the model of a run, runs/NAME/model."""
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
    """Score a model, or run the command that the first argument names.

    Raises:
        SystemExit: with status 2 for a wrong argument, and 0 for --help.
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
