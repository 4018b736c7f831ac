"""Score a Whisper on a corpus: `python -m eval MODEL CORPUS --split test --language zh`."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from data.config import DataConfig
from data.errors import InputError, plain_errors
from data.knobs import parse_dataclass
from data.labels import LabelEncoder
from data.manifest import read_held_out, scan_cache
from data.screen import count_reasons
from eval.config import EvalConfig
from eval.ct2 import Ct2, is_ct2, load_ct2
from eval.evaluate import Evaluator, save
from eval.meters import Meters
from eval.noise import hear_noise
from eval.scores import Scores
from eval.whisper import load_whisper


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Score a Whisper on a corpus."""

    # a folder, a name on the Hub, or a folder that CTranslate2 made (with the extra ct2)
    model: tyro.conf.Positional[str]
    corpus: tyro.conf.Positional[tuple[str, ...]]  # folders, manifests or Hub names
    split: str = "test"  # of the corpus
    # Whisper's code, one for all corpora or one for each; none: as the corpus says
    language: tuple[str, ...] = ()
    out: str = "runs/eval"  # gets a folder with scores.json and utterances.jsonl
    precision: Literal["no", "fp16", "bf16"] = "no"  # autocast
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def main() -> None:
    """Read, transcribe, score, and show."""
    with plain_errors():
        command = parse_dataclass(Command, sys.argv[1:])
        if command.precision == "fp16" and not torch.cuda.is_available():
            raise InputError("precision=fp16 needs a GPU; set precision to no or bf16")
        accelerator = Accelerator(mixed_precision=command.precision)
        language = command.language or command.data.language
        data = replace(command.data, corpus=command.corpus, language=language)
        evaluator, labels = _evaluator(command, data, accelerator)
        out = Path(command.out)
        cache = scan_cache(out.parent, data)
        show = accelerator.is_main_process
        utterances, drops = read_held_out(data, labels, cache, split=command.split, show=show)
        short = command.eval.pad == "bucket"
        scores, hypotheses = evaluator.evaluate(utterances, command.split, true_length=short)
        noise = hear_noise(evaluator, hypotheses, true_length=short)
        meters = Meters.of(hypotheses, noise)
        if accelerator.is_main_process:
            left_out = count_reasons(drops).get(command.split, {})
            name = f"{_short(command.model)}-{Path(data.corpus[0]).name}-{command.split}"
            folder = out / name
            facts = {"model": command.model, "left_out": left_out, "true_length": short}
            save(folder, scores, hypotheses, meters=meters.to_json(), **facts)
            console = Console(highlight=False)
            console.print(score_table(scores, f"{command.model} on {command.split}"))
            console.print(str(meters), soft_wrap=True)
            console.print(f"left out: {left_out or 'nothing'}\nscores and texts: {folder}")


def _evaluator(
    command: Command, data: DataConfig, accelerator: Accelerator
) -> tuple[Evaluator | Ct2, LabelEncoder]:
    """Load the model; return what scores it, and what knows its languages."""
    if is_ct2(command.model):
        ct2 = load_ct2(command.model, command.eval, command.precision)
        return ct2, ct2.labels()
    whisper = load_whisper(command.model)
    whisper.model.to(accelerator.device)
    evaluator = Evaluator(accelerator=accelerator, whisper=whisper, data=data, config=command.eval)
    return evaluator, whisper.labels()


def _short(model: str) -> str:
    """Return a name for a folder: a run's model is runs/NAME/model, so NAME tells it apart."""
    path = Path(model)
    return path.parent.name if path.name == "model" else path.name


def score_table(scores: Scores, title: str) -> Table:
    """Return the figures of an evaluation as a table."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("language", "clips", "WER", "CER", "WER orthographic", "CER orthographic"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for name, group in scores.named():
        rates = (group.wer, group.cer, group.wer_ortho, group.cer_ortho)
        cells = [f"{rate.rate:.2%}" for rate in rates]
        table.add_row(name, str(group.clips), *cells)
    names = sorted({group.normalizer for _, group in scores.named()})
    empty = sum(group.empty for group in scores.groups + scores.long)
    table.caption = f"normaliser: {'; '.join(names)}. Empty references left out: {empty}."
    return table


if __name__ == "__main__":
    main()
