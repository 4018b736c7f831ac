"""Compute the shapes of all forward passes of a plan from metadata, without decoding audio."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from data.batch import Shape
from data.labels import PROMPT_TOKENS, LabelEncoder
from data.log_mel import FRAMES_PER_POSITION
from data.sampling.bucketed_sampler import BucketedBatchSampler, SampleSpec
from data.utterance import Utterance
from trainer.metrics.flops import POSITIONS_PER_SECOND, WhisperFlops


class Pass(NamedTuple):
    """A forward pass of one process."""

    shape: Shape  # of its Batch
    targets: int  # number of tokens in the loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """The content of an update. All but `passes` are totals over all processes."""

    passes: list[Pass]  # of the first process, which has the most rows
    clips: int
    seconds: float  # of audio, without padding
    targets: int  # number of tokens in the loss
    positions: int  # of the encoder, padding included
    slots: int  # positions of the decoder, padding included

    def flops(self, model: WhisperFlops) -> float:
        """Return the FLOPs of the first process."""
        return sum(model.batch(each.shape) for each in self.passes)


class Workload:
    """Iterates over the updates of a plan as training will, without decoding audio."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sampler: BucketedBatchSampler,
        labels: LabelEncoder,
    ) -> None:
        """Create a workload.

        Args:
            utterances: of the sampler's plan.
            sampler: draws the batches.
            labels: counts the tokens of labels.
        """
        self._utterances = utterances
        self._sampler = sampler
        self._labels = labels

    def updates(self, count: int) -> Iterator[Update]:
        """Yield the first `count` updates."""
        ranks = [
            replace(self._sampler, updates=count, rank=rank)
            for rank in range(self._sampler.world_size)
        ]
        update: list[tuple[list[SampleSpec], ...]] = []  # for each pass, the rows of every rank
        for pass_by_rank in zip(*ranks, strict=True):
            update.append(pass_by_rank)
            if pass_by_rank[0][0].is_last:
                yield self._update(update)
                update = []

    def _update(self, specs: Sequence[Sequence[list[SampleSpec]]]) -> Update:
        by_rank = [[self._pass(rows) for rows in ranks] for ranks in specs]
        passes = [each for ranks in by_rank for each in ranks]
        rows = [row for ranks in specs for rows in ranks for row in rows]
        clips = [(i, row.position.epoch) for row in rows for i in row.clips]
        return Update(
            passes=[ranks[0] for ranks in by_rank],
            clips=len(clips),
            seconds=sum(self._sampler.plan.duration(i, epoch) for i, epoch in clips),
            targets=sum(each.targets for each in passes),
            positions=sum(s.rows * s.frames // FRAMES_PER_POSITION for s, _ in passes),
            slots=sum(s.rows * s.tokens for s, _ in passes),
        )

    def _pass(self, specs: Sequence[SampleSpec]) -> Pass:
        rows = [self._row_tokens(spec) for spec in specs]
        padded = min(specs[0].label_length, self._labels.max_tokens)
        longest = max(padded, *(context + max(1, targets) for context, targets in rows))
        shape = Shape(len(specs), specs[0].frames, longest)
        return Pass(shape, sum(targets for _, targets in rows))

    def _row_tokens(self, spec: SampleSpec) -> tuple[int, int]:
        """Return the number of context tokens of a row, and that of its target tokens.

        The start token is no target. A row without clips, of weight 0, has neither.
        """
        clips = [self._utterances[i] for i in spec.clips]
        if not clips:
            return 0, 0
        max_tokens, length = self._labels.max_tokens, clips[0].tokens
        if len(clips) > 1:  # packed clips share prefix and end token: count the joint label
            language = clips[0].language or ""
            texts = self._labels.encode_texts([u.text for u in clips], language)
            length = len(self._labels.add_special_tokens(texts, language, clips[0].task))
        if spec.with_timestamps and length + 2 * len(clips) <= max_tokens:
            length += 2 * len(clips) - 1  # timestamps replace <|notimestamps|>
        context = 0
        if spec.with_prompt and max_tokens - length > 1:
            context = 1 + min(clips[0].prompt_tokens, PROMPT_TOKENS, max_tokens - length - 1)
        return context, length - 1


def average_update(updates: Sequence[Update]) -> dict[str, float]:
    """Return the average content of an update, and the shares of padding."""
    count, audio = len(updates), sum(u.seconds for u in updates)
    positions, slots = sum(u.positions for u in updates), sum(u.slots for u in updates)
    return {
        "clips": sum(u.clips for u in updates) / count,
        "audio_seconds": audio / count,
        "passes": sum(len(u.passes) for u in updates) / count,
        "encoder_padding": 1 - audio * POSITIONS_PER_SECOND / positions,
        "decoder_padding": 1 - sum(u.targets for u in updates) / slots,
        "shapes": len({each.shape for u in updates for each in u.passes}),
    }


def group_by_length(updates: Sequence[Update], max_groups: int) -> list[list[Shape]]:
    """Return the shapes of all passes in up to max_groups groups, the shortest first.

    Passes of the same padded length are in the same group.
    """
    shapes = [each.shape for update in updates for each in update.passes]
    lengths = sorted({shape.frames for shape in shapes})
    count = min(max_groups, len(lengths))
    edges = [lengths[len(lengths) * (number + 1) // count - 1] for number in range(count)]
    groups: list[list[Shape]] = [[] for _ in edges]
    for shape in shapes:
        groups[bisect_left(edges, shape.frames)].append(shape)
    return groups
