"""What a run will compute: the passes of its plan, known from lengths alone."""

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
    """One forward pass of one process."""

    shape: Shape  # as its Batch will have it
    targets: int  # tokens that are learnt


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What an update holds. All but `passes` counts what all processes do together."""

    passes: list[Pass]  # of the first process: none has more rows
    clips: int
    seconds: float  # of real audio
    targets: int  # tokens that are learnt
    positions: int  # of the encoder, padding included
    slots: int  # of the decoder, padding included

    def flops(self, of: WhisperFlops) -> float:
        """Return what the first process computes."""
        return sum(of.of_pass(each.shape) for each in self.passes)


class Workload:
    """Walks through a plan as training will, without decoding anything."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        sampler: BucketedBatchSampler,
        encoder: LabelEncoder,
    ) -> None:
        """Take what the sampler's plan was made of, the sampler, and what counts tokens."""
        self._utterances = utterances
        self._sampler = sampler
        self._encoder = encoder

    def updates(self, number: int) -> Iterator[Update]:
        """Yield the first so many updates."""
        ranks = [
            replace(self._sampler, updates=number, rank=rank)
            for rank in range(self._sampler.world_size)
        ]
        held: list[tuple[list[SampleSpec], ...]] = []  # passes of one update, each of every process
        for together in zip(*ranks, strict=True):
            held.append(together)
            if together[0][0].is_last:
                yield self._update(held)
                held = []

    def _update(self, held: Sequence[Sequence[list[SampleSpec]]]) -> Update:
        made = [[self._pass(draws) for draws in together] for together in held]
        every = [each for together in made for each in together]
        draws = [each for together in held for draws in together for each in draws]
        heard = [(i, each.position.epoch) for each in draws for i in each.clips]
        return Update(
            passes=[together[0] for together in made],
            clips=len(heard),
            seconds=sum(self._sampler.plan.duration(i, epoch) for i, epoch in heard),
            targets=sum(each.targets for each in every),
            positions=sum(s.rows * s.frames // FRAMES_PER_POSITION for s, _ in every),
            slots=sum(s.rows * s.tokens for s, _ in every),
        )

    def _pass(self, draws: Sequence[SampleSpec]) -> Pass:
        rows = [self._row(draw) for draw in draws]
        longest = max(context + max(1, targets) for context, targets in rows)
        shape = Shape(len(draws), draws[0].frames, longest)
        return Pass(shape, sum(targets for _, targets in rows))

    def _row(self, draw: SampleSpec) -> tuple[int, int]:
        """Return the tokens of a row that are only read, and those that are learnt.

        The start token is not learnt; silence of no weight has no target, but a label.
        """
        clips = [self._utterances[i] for i in draw.clips]
        if not clips:
            return 0, 0
        most, length = self._encoder.max_tokens, clips[0].tokens
        if len(clips) > 1:  # they share prefix and end token: count them anew
            language = clips[0].language or ""
            pieces = self._encoder.encode_texts([u.text for u in clips], language)
            length = len(self._encoder.add_special_tokens(pieces, language, clips[0].task))
        if draw.with_timestamps and length + 2 * len(clips) <= most:
            length += 2 * len(clips) - 1  # instead of <|notimestamps|>
        context = 0
        if draw.with_prompt and most - length > 1:
            context = 1 + min(clips[0].prompt_tokens, PROMPT_TOKENS, most - length - 1)
        return context, length - 1


def averages(updates: Sequence[Update]) -> dict[str, float]:
    """Return what an update holds on average, and which share of all positions holds nothing."""
    number, audio = len(updates), sum(each.seconds for each in updates)
    positions, slots = sum(u.positions for u in updates), sum(u.slots for u in updates)
    return {
        "clips": sum(each.clips for each in updates) / number,
        "audio_seconds": audio / number,
        "passes": sum(len(each.passes) for each in updates) / number,
        "encoder_padding": 1 - audio * POSITIONS_PER_SECOND / positions,
        "decoder_padding": 1 - sum(each.targets for each in updates) / slots,
    }


def by_length(updates: Sequence[Update], most: int) -> list[list[Shape]]:
    """Return the passes of all updates in a few groups, the shortest first.

    All that are padded to one length are in one group.
    """
    shapes = [each.shape for update in updates for each in update.passes]
    lengths = sorted({shape.frames for shape in shapes})
    groups = min(most, len(lengths))
    edges = [lengths[len(lengths) * (number + 1) // groups - 1] for number in range(groups)]
    found: list[list[Shape]] = [[] for _ in edges]
    for shape in shapes:
        found[bisect_left(edges, shape.frames)].append(shape)
    return found
