"""What is measured of a side, by the same names on both; medians and scores."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from measure import Task

from eval.metrics.scores import Group, Hypothesis, score


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """None: not measured, or there is no such thing."""

    preparation_seconds: float | None = None  # of features, before training can start
    disk_bytes: float | None = None  # that training reads beside the corpus
    loading_seconds: float | None = None  # of libraries and model
    first_update_seconds: float | None = None  # from there to the end of the first update
    updates_per_second: float | None = None
    clips_per_second: float | None = None
    audio_seconds_per_second: float | None = None
    useful_flops: float | None = None  # a second; padding is not counted
    peak_flops: float | None = None  # of the device, a second
    data_wait: float | None = None  # share of the time
    encoder_padding: float | None = None  # share of its positions
    decoder_padding: float | None = None  # share of its positions
    ceiling: float | None = None  # FLOPs of the timed clips padded to 30 s, over true lengths'
    own_ceiling: float | None = None  # the same, over those of what was computed, its padding too
    tree_bytes: float | None = None  # peak of host memory, see measure.Process
    process_bytes: float | None = None  # peak of host memory, see measure.Process
    device_bytes: float | None = None  # peak of what the GPU's allocator handed out
    evaluation_clips_per_second: float | None = None  # before training
    evaluation_tree_bytes: float | None = None  # peak of a run that evaluates before and after
    short_clips_per_second: float | None = None  # at true length, after training
    wer_before: float | None = None
    wer: float | None = None  # after as many clips as the other side
    cer: float | None = None
    short_wer: float | None = None  # the same model, decoded at true length
    short_cer: float | None = None
    same_time_updates: float | None = None
    same_time_wer: float | None = None  # after training for as long as the other side
    same_time_cer: float | None = None


def joined(*parts: Figures) -> Figures:
    """Return what was measured in any of the parts."""
    measured = [{k: v for k, v in asdict(part).items() if v is not None} for part in parts]
    return Figures(**{name: value for part in measured for name, value in part.items()})


def median(rounds: Sequence[Figures]) -> Figures:
    """Return the medians over rounds."""
    found = {}
    for field in fields(Figures):
        values = [getattr(each, field.name) for each in rounds]
        measured = [value for value in values if value is not None]
        found[field.name] = statistics.median(measured) if measured else None
    return Figures(**found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """An evaluation of the test split."""

    texts: Mapping[str, str]  # by id
    seconds: float

    def score(self, task: Task) -> Group:
        """Count errors: the same function and normaliser for both sides."""
        heard = [Hypothesis(utterance=u, text=self.texts[u.id]) for u in task.test]
        (group,) = score(heard, "basic", self.seconds).groups
        return group


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was heard before and after training."""

    before: Look
    after: Look
    short: Look | None = None  # after training, at true length
    tree_bytes: int  # peak


def scored(task: Task, found: Evaluation) -> Figures:
    """Return the figures of evaluations before and after training."""
    was, now = found.before.score(task), found.after.score(task)
    figures = Figures(
        evaluation_clips_per_second=len(task.test) / found.before.seconds,
        evaluation_tree_bytes=found.tree_bytes,
        wer_before=was.counts("wer").rate,
        wer=now.counts("wer").rate,
        cer=now.counts("cer").rate,
    )
    if found.short is None:
        return figures
    short = found.short.score(task)
    speed = len(task.test) / found.short.seconds
    return replace(
        figures,
        short_clips_per_second=speed,
        short_wer=short.counts("wer").rate,
        short_cer=short.counts("cer").rate,
    )
