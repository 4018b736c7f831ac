"""When a run looks at itself: before training, when due, and at the end with its best model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data.errors import InputError
from data.lazy import Outline
from data.manifest import Manifest
from data.utterance import Utterance
from eval.beside import look_beside
from eval.bootstrap import percent, saved_percent
from eval.evaluate import Evaluator, save
from eval.scores import Scores, saved_groups
from eval.table import two_lines
from trainer.publish import export, exported_step, restore
from trainer.recorder import Recorder, Silence
from trainer.report import write_report
from trainer.state import TrainState


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """Scores dev to choose and test to report; keeps the best model in the run's folder."""

    evaluator: Evaluator
    manifest: Manifest
    folder: Path
    recorder: Recorder | Silence

    @property
    def model_folder(self) -> Path:
        """Return where the best model goes."""
        return self.folder / "model"

    def before(self, state: TrainState) -> None:
        """Score the model as it came, on both splits; a run that goes on has done so."""
        for split, utterances in (("dev", self.manifest.dev), ("test", self.manifest.test)):
            if utterances and state.step == 0:
                self._score(split, utterances, 0)

    def judge(self, state: TrainState) -> bool:
        """Score dev; return whether this is the best so far. Without a dev split nothing is."""
        if not self.manifest.dev:
            return False
        return state.judge(self._score("dev", self.manifest.dev, state.step).error)

    def keep_best(self, state: TrainState) -> None:
        """Write the model in hand as the run's model."""
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.despite_disk(f"{self.model_folder} of update {state.step}"):
                export(self.evaluator.whisper, self.model_folder, self._facts(state))
        self.evaluator.accelerator.wait_for_everyone()

    def after(self, state: TrainState) -> None:
        """Take the best model back in hand and score it on test.

        Raises:
            InputError: the disk did not take it when it was found.
        """
        if state.best_error is None:  # nothing was chosen: the last is the model
            self.keep_best(state)
        if exported_step(self.model_folder) != (state.best_step or state.step):
            raise InputError(
                f"{self.model_folder}: the best model could not be written: free some space, and "
                "go on with --resume=auto, which takes it from its checkpoint"
            )
        restore(self.evaluator.whisper, self.model_folder)
        if self.manifest.test:
            self._score("test", self.manifest.test, state.best_step or state.step)
        self.recorder.say(comparison(self.folder))

    def _score(self, split: str, utterances: Sequence[Utterance], step: int) -> Scores:
        config, short = self.evaluator.config, self.short(step)
        scores, hypotheses = self.evaluator.evaluate(
            utterances, f"{split}, update {step}", true_length=short
        )
        at = self.folder / "eval" / f"step-{step:08d}" / split
        unlearnt = split == "dev" or not self.manifest.dev
        beside = look_beside(self.evaluator, hypotheses, at, forgetting=unlearnt, true_length=short)
        found = scores.metrics() | beside.metrics()
        self.recorder.record(step, {f"{split}/{name}": value for name, value in found.items()})
        for name, group in scores.named():
            self.recorder.say(
                f"update {step:>6}  {split} {name}: {group.sentence()}  "
                f"[{group.clips} clips{', at their own length' if short else ''}, {group.how}]"
            )
        for line in beside.lines():
            self.recorder.say(f"update {step:>6}  {split} {line}")
        if self.evaluator.accelerator.is_main_process:
            facts = {"step": step, "max_length": config.max_length, "beams": config.num_beams}
            facts["true_length"] = short
            with self.recorder.despite_disk(str(at)):
                beside.save(at, step)
                save(at, scores, hypotheses, meters=beside.meters.to_json(), **facts)
                write_report(self.folder)
        return scores

    def short(self, step: int) -> bool:
        """Tell whether to decode at true length: before training no published model can."""
        asked = self.evaluator.config.pad
        trained = self.evaluator.data.pad == "bucket" and step > 0
        return asked == "bucket" or (asked == "auto" and trained)

    def _facts(self, state: TrainState) -> dict[str, Any]:
        outline, streamed = Outline.of(self.manifest.train), self.evaluator.data.streaming
        return {
            "step": state.best_step or state.step,
            "base_model": self.evaluator.whisper.name,
            "languages": sorted({language for _, language, _ in set(outline.kinds)}),
            "clips": None if streamed else len(outline.seconds),
            "hours": state.audio_seconds / 3600 if streamed else outline.hours,
            "error": state.best_error,
        }


def comparison(folder: Path) -> Table:
    """Return the table of a run's test scores before and after, from its files."""
    steps = sorted((folder / "eval").glob("step-*/test/scores.json"))
    table = Table(title="test: before → after", title_justify="left", caption_justify="left")
    for column in ("language", "clips", "metric", "before", "after", "orthographic"):
        table.add_column(column, no_wrap=column != "language")
    if not steps:
        return table
    first, last = (json.loads(path.read_text(encoding="utf-8")) for path in (steps[0], steps[-1]))
    normalizers = set()
    for (name, was), (_, now) in zip(saved_groups(first), saved_groups(last), strict=True):
        key = now["metric"].lower()
        normalizers.add(now["normalizer"])
        table.add_row(
            name,
            str(now["clips"]),
            now["metric"],
            two_lines(saved_percent(was[key])),
            f"[bold]{two_lines(saved_percent(now[key]))}[/]",
            f"{percent(was[key + '_ortho']['rate'])} → {percent(now[key + '_ortho']['rate'])}",
        )
    table.caption = f"In brackets: 95 %. Normaliser: {'; '.join(sorted(normalizers))}"
    return table
