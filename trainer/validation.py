"""When a run looks at itself: before training, when due, and at the end with its best model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.lazy_manifest import ManifestColumns
from data.manifest import Manifest
from data.utterance import Utterance
from eval.evaluate import Evaluator, save
from eval.main_process import run_on_main_process
from eval.metrics.hypothesis import Hypothesis
from eval.metrics.scores import Scores
from eval.probes.run_probes import run_probes
from eval.report.page import write_page
from eval.subset import stratified
from trainer.best_model import TEXTS, choose, write_losses
from trainer.checkpoint.rotation import set_aside
from trainer.metrics.console import comparison
from trainer.metrics.recorder import NullRecorder, Recorder
from trainer.metrics.wall_clock import WallClock
from trainer.publish.card_facts import facts_of
from trainer.publish.export import describe, export, exported_step, restore
from trainer.publish.uploader import HubUploader
from trainer.report.plots import write_plots
from trainer.report.run_report import write_report
from trainer.state import TrainState

ALL_OF_DEV = "dev-all"  # beside "dev", the clips that models are chosen by


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Scores dev to choose and test to report; keeps the best model in the run's folder."""

    evaluator: Evaluator
    manifest: Manifest
    folder: Path
    recorder: Recorder | NullRecorder
    clock: WallClock
    eval_clips: int | None  # of dev, while training
    uploader: HubUploader

    @property
    def sample(self) -> list[Utterance]:
        """Return the clips of dev that models are chosen by."""
        return stratified(self.manifest.dev, self.eval_clips)

    @property
    def sampled(self) -> bool:
        """Tell whether they are a part of dev only."""
        return len(self.sample) < len(self.manifest.dev)

    @property
    def model_folder(self) -> Path:
        """Return where the best model goes."""
        return self.folder / "model"

    def before(self, state: TrainState) -> None:
        """Score the model as it came, on both splits; a run that goes on has done so."""
        self.clock.since = state.step
        if self.evaluator.accelerator.is_main_process:
            self.uploader.start()
        splits = [("dev", self.sample), ("test", self.manifest.test)]
        held = [(split, utterances) for split, utterances in splits if utterances]
        if state.step or not held:
            return
        with self._timed(0):
            for split, utterances in held:
                self._score(split, utterances, 0)

    def evaluate_dev(self, state: TrainState) -> tuple[float, bool]:
        """Score dev's sample; return the error, and whether this is the best so far."""
        with self._timed(state.step):
            error = self._score("dev", self.sample, state.step).error
            old, new = (self._at(step, "dev") for step in (state.best_step, state.step))
            verdict = run_on_main_process(
                self.evaluator.accelerator, lambda: choose(old, new, error, state)
            )
        self.recorder.print(f"update {state.step:>6}  {verdict.told}")
        return error, verdict.better

    def set_aside(self, newer_than: int) -> None:
        """Rename evaluations of a future that a resume from an older checkpoint gives up."""
        for path in sorted((self.folder / "eval").glob("step-*")):
            if int(path.name.removeprefix("step-")) > newer_than:
                set_aside(path)

    def keep_best(self, state: TrainState) -> None:
        """Write the model in hand as the run's model, while other processes wait."""
        run_on_main_process(self.evaluator.accelerator, lambda: self._export(state))
        self.evaluator.accelerator.wait_for_everyone()  # a run may end here: all have heard of it

    def _export(self, state: TrainState) -> None:
        told = f"{self.model_folder} of update {state.step}"
        with self.clock.on("saving"), self.recorder.despite_disk(told):
            whisper, facts = self.evaluator.whisper, self._facts(state)
            export(whisper, self.model_folder, facts, self.uploader.config.precision)
            self.uploader.offer_model()

    def after(self, state: TrainState) -> None:
        """Take the best model back in hand and score it on all of dev, and on test.

        Raises:
            InputError: the disk did not take it when it was found.
        """
        if state.best_error is None:  # nothing was chosen: the last is the model
            self.keep_best(state)
        accelerator = self.evaluator.accelerator
        held = run_on_main_process(accelerator, lambda: exported_step(self.model_folder))
        if held != (state.best_step or state.step):
            raise InputError(
                f"{self.model_folder}: the best model could not be written: free some space, and "
                "go on with --resume=auto, which takes it from its checkpoint"
            )
        restore(self.evaluator.whisper, self.model_folder)
        error = state.best_error
        if self.sampled or self.manifest.test:
            with self._timed(state.best_step or state.step):
                error = self._report(error, state.best_step or state.step)
        self._describe(state, error)
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.despite_disk(str(self.folder / "report.html")):
                write_report(self.folder)
                if self.manifest.dev or self.manifest.test:
                    write_plots(self.folder)
        if self.manifest.test:
            self.recorder.print(comparison(self.folder, state.best_step or state.step))

    def _report(self, error: float | None, step: int) -> float | None:
        """Score the chosen model on all of dev, since its sample flatters it, and on test.

        Returns:
            its error on all of dev.
        """
        if self.sampled:
            error = self._score(ALL_OF_DEV, self.manifest.dev, step).error
        if self.manifest.test:
            self._score("test", self.manifest.test, step)
        return error

    def _describe(self, state: TrainState, error: float | None) -> None:
        """Write the card of what is known at the end, and send it with the model."""
        if self.evaluator.accelerator.is_main_process:
            with self.recorder.despite_disk(str(self.model_folder)):
                describe(self.model_folder, {**self._facts(state), "error": error})
                self.uploader.offer_model()

    @contextmanager
    def _timed(self, step: int) -> Iterator[None]:
        """Tell what share of the time so far went into evaluations."""
        before = self.clock.spent("evaluation")
        with self.clock.on("evaluation"):
            yield
        took = self.clock.spent("evaluation") - before
        self.recorder.record(step, self.clock.shares())
        self.recorder.print(
            f"update {step:>6}  evaluation took {took:.0f} s; so far {self.clock.summary()}"
        )

    def _at(self, step: int, split: str) -> Path:
        return self.folder / "eval" / f"step-{step:08d}" / split

    def _say_loss(self, split: str, hypotheses: Sequence[Hypothesis], step: int) -> None:
        """Tell what the references cost that labels can hold."""
        known = [h.likelihood for h in hypotheses if h.likelihood]
        if known:
            nll, tokens = map(sum, zip(*known, strict=True))
            self.recorder.record(step, {f"{split}/loss": nll / tokens})
            self.recorder.print(f"update {step:>6}  {split} loss {nll / tokens:.4f} nats a token")

    def _score(self, split: str, utterances: Sequence[Utterance], step: int) -> Scores:
        config, short = self.evaluator.config, self.short(split, step)
        scores, hypotheses = self.evaluator.evaluate(
            utterances, f"{split}, update {step}", true_length=short, costs=True
        )
        at, unlearnt = self._at(step, split), split == "dev" or not self.manifest.dev
        beside = run_probes(self.evaluator, hypotheses, at, forgetting=unlearnt, true_length=short)
        found = scores.metrics() | beside.metrics()
        self.recorder.record(step, {f"{split}/{name}": value for name, value in found.items()})
        for name, group in scores.named():
            self.recorder.print(
                f"update {step:>6}  {split} {name}: {group.sentence()}  "
                f"[{group.clips} clips{', at their own length' if short else ''}, {group.how}]"
            )
        for line in beside.lines():
            self.recorder.print(f"update {step:>6}  {split} {line}")
        self._say_loss(split, hypotheses, step)
        if self.evaluator.accelerator.is_main_process:
            facts = {"step": step, "max_length": config.max_length, "beams": config.num_beams}
            facts["true_length"] = short
            with self.recorder.despite_disk(str(at)):
                (at / TEXTS).unlink(missing_ok=True)  # a full disk shall leave no other model's
                beside.save(at, step)
                save(at, scores, hypotheses, meters=beside.meters.to_json(), **facts)
                write_losses(at, hypotheses)
                self._show(at, split, step)
                write_report(self.folder)
        return scores

    def _show(self, at: Path, split: str, step: int) -> None:
        """Make an evaluation's page, beside what the model made of it before training."""
        config, first = self.evaluator.config, self.folder / "eval" / f"step-{0:08d}" / split
        before = first if step and (first / "scores.json").is_file() else None
        try:
            write_page(at, before, audio=config.audio, embed_clips=config.embed_clips)
        except InputError as error:  # what an earlier version wrote must not end a run
            self.recorder.print(f"WARNING: no page of {at}: {error}")

    def short(self, split: str, step: int) -> bool:
        """Tell whether to decode at true length: dev, once trained so. Test is for all to repeat.

        Stock pipelines decode padded, so what is reported is padded; what chooses may be quick.
        """
        asked = self.evaluator.config.pad
        trained = self.evaluator.data.pad == "bucket" and step > 0
        return asked == "bucket" or (asked == "auto" and trained and split != "test")

    def _facts(self, state: TrainState) -> dict[str, Any]:
        return facts_of(self.evaluator, ManifestColumns.of(self.manifest.train), self.clock, state)
