"""Speculative decoding: guesses of the next tokens, which the network judges all in one step.

Whatever is guessed, answers keep the distribution of the network alone, with all dials of the request: a token that was
guessed for certain counts where the network's own choice is the same, and one that was drawn from a smaller network's
distribution by the rule of Leviathan et al. 2023 (arXiv:2211.17192) and Chen et al. 2023 (arXiv:2302.01318), which is
`sampling.speculate`. Greedy answers, and all answers where drafts are certain, are the same token for token.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from polytask.errors import ConfigError
from polytask.inference.blocks import BlockPool, Table
from polytask.inference.room import Room
from polytask.inference.runner import places_in_pictures
from polytask.inference.sampling import Place, Sampler, draw
from polytask.inference.sequence import Group, Sequence
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.composition import Composition
from polytask.nn.paged import Row
from polytask.tokenizers.text import TextTokenizer

FIRST, MOST, LEAST = 4.0, 8.0, 0.125  # drafts of a step: at first, at the most, and on average where none is right
LONGEST, SHORTEST = 4, 2  # ids that must have come before, for what followed them to be guessed again
CHUNK = 2048  # ids of prompts that a draft model reads in a step
SHARE = 0.2  # of the memory that the engine left free, for the cache of a draft model


class Proposer(Protocol):
    """Guesses what comes next."""

    def propose(self, wanted: Mapping[Sequence, int]) -> None:
        """Sets `drafts` of each sequence, at most so many, and `odds` where they were drawn.

        Sequences that are not in `wanted` have ended, or come back later as if they were new.
        """
        ...


class Speculator:
    """Asks a proposer for as many drafts as are likely to be right: more after a success, fewer after a failure.

    drafted, accepted: how many there were, and how many of them were right.
    """

    def __init__(self, proposer: Proposer | None):
        self.proposer, self.drafted, self.accepted = proposer, 0, 0
        self._paces: dict[Sequence, tuple[float, float]] = {}  # drafts of a step, and what is left of earlier steps

    def draft(self, running: Iterable[Group]) -> None:
        """Drafts for all sequences that decode."""
        if self.proposer is None:
            return
        texts = [g for g in running if g.beam is None and g.request.drawing is None]
        # What others of a group wait for is the prompt alone: they share all that was run of it, guesses too.
        texts = [g for g in texts if not any(s.waits for s in g.sequences)]
        decoding = [s for g in texts for s in g.active if not s.reading and s.slot >= 0]
        paces, wanted = {}, {}
        for sequence in decoding:
            pace, left = self._paces.get(sequence, (FIRST, 0.0))
            count = int(pace + left)
            # One token comes from the step itself.
            wanted[sequence] = min(count, sequence.limit - sequence.produced - 1)
            paces[sequence] = pace, pace + left - count
            sequence.drafts, sequence.odds = [], None
        self._paces = paces
        self.proposer.propose(wanted)

    def learn(self, sequence: Sequence, right: int) -> None:
        """So many of a sequence's drafts were right."""
        if sequence not in self._paces:  # what a recorded step wrote was no guess
            return
        drafted = len(sequence.drafts)
        self.drafted, self.accepted = self.drafted + drafted, self.accepted + right
        pace, left = self._paces[sequence]
        pace = min(2 * max(pace, 0.5), MOST) if right == drafted else max(pace / 2, right, LEAST)
        self._paces[sequence] = pace, left


class NGrams:
    """What followed when the last ids came before, in the prompt or in the answer (prompt lookup; Saxena 2023,
    github.com/apoorvumang/prompt-lookup-decoding). The longest match counts, the last one of those."""

    def __init__(self) -> None:
        self._known: dict[Sequence, tuple[int, dict[tuple[int, ...], int]]] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> None:
        self._known = {s: self._known.get(s, (0, {})) for s in wanted}
        for sequence, count in wanted.items():
            seen, places = self._known[sequence]
            ids = sequence.ids
            for end in range(max(seen, 1), len(ids)):  # ids[end] is known to follow
                for size in range(SHORTEST, min(LONGEST, end) + 1):
                    places[tuple(ids[end - size : end])] = end
            self._known[sequence] = len(ids), places
            found = (places.get(tuple(ids[-size:])) for size in range(LONGEST, SHORTEST - 1, -1))
            place = next((place for place in found if place is not None), None)
            sequence.drafts = [] if place is None else ids[place : place + count]


class DraftModel:
    """A smaller network over the same ids, with a key/value cache of its own.

    Its tokens are chosen like those of the answer, by the same dials. Where its cache has no room for a sequence, that
    one gets no drafts.
    """

    def __init__(self, network: Transformer, sampler: Sampler, ends: Collection[int], slots: int, length: int):
        self.network, self.sampler, self.ends = network.eval(), sampler, ends
        self.length = min(length, network.config.context_length)
        self.cache = network.new_cache(Room(SHARE).blocks(network, slots, self.length))
        self.pool = BlockPool(self.cache.blocks)
        self._readers: dict[Sequence, Reader] = {}
        self._composition = Composition(network)

    def propose(self, wanted: Mapping[Sequence, int]) -> None:
        for sequence in [s for s in self._readers if s not in wanted]:
            self._readers.pop(sequence).table.release()
        if wanted and not self._readers and self._composition.changed():
            self.pool.clear()
        active, left = [], CHUNK
        for sequence, count in wanted.items():
            count = min(count, self.length - len(sequence.ids))
            if count < 1:
                continue
            prefix = sequence.prefix if self.network.config.prefix else 0
            reader = self._readers.setdefault(sequence, Reader(sequence, self.pool, prefix))
            reader.catch_up(count)
            # A prompt that is too long for what is left of this step is read in a later one.
            if (reader.pending <= left or left == CHUNK) and reader.table.grow(len(sequence.ids) + count):
                left -= reader.pending
                active.append(reader)
        going = active
        while going:
            going = self._round(sorted(going, key=lambda reader: reader.pending))
        for reader in active:
            reader.sequence.odds = torch.stack(reader.odds) if reader.odds else None

    def _round(self, readers: "list[Reader]") -> "list[Reader]":
        """One more draft for each; those that go on."""
        scores = self.sampler.adjust(self._run(readers), [reader.place for reader in readers])
        ids = scores.argmax(-1)
        drawn = [row for row, reader in enumerate(readers) if reader.sequence.sampling.temperature > 0]
        if drawn:
            places = [readers[row].place for row in drawn]
            odds = self.sampler.weigh(scores[drawn], places)
            ids[drawn] = draw(odds, self.sampler.numbers(places)[:, 2])
            for row, one in zip(drawn, odds):
                readers[row].odds.append(one)
        for reader, i in zip(readers, ids.tolist()):
            reader.take(i)
        return [reader for reader in readers if reader.left and reader.ids[-1] not in self.ends]

    def _run(self, readers: "list[Reader]") -> Tensor:
        """Logits (readers, V of the large network) after all that is pending."""
        rows = [Row(r.table.blocks, r.computed, r.pending, r.prefix) for r in readers]
        device = self.network.embedding.weight.device
        ids = torch.tensor([[i for r in readers for i in r.ids[r.computed :]]], device=device)
        positions = torch.tensor([[place for r in readers for place in range(r.computed, len(r.ids))]], device=device)
        context = Context(positions, cache=self.cache.view(rows))
        context.grid = places_in_pictures(self.network, ((r.ids, r.computed, r.pending) for r in readers))
        hidden = self.network(ids, context)[0]
        last = torch.tensor([r.pending for r in readers], device=device).cumsum(0) - 1
        for reader in readers:
            reader.computed = len(reader.ids)
        logits = self.network.logits(hidden[last]).float()
        lacking = self.sampler.vocabulary - logits.shape[1]
        return functional.pad(logits, (0, lacking), value=-torch.inf)  # cut where it is negative


class Reader:
    """What a draft model has read of a sequence, in blocks of its own: its ids, and drafts after them."""

    def __init__(self, sequence: Sequence, pool: BlockPool, prefix: int):
        self.sequence, self.prefix = sequence, prefix
        self.table = Table(pool, tuple(sequence.ids[:prefix]) if prefix > 1 else ())
        self.ids: list[int] = []
        self.odds: list[Tensor] = []
        self.sure = self.computed = self.left = 0  # `sure` ids are the answer's own

    @property
    def pending(self) -> int:
        return len(self.ids) - self.computed

    @property
    def place(self) -> Place:
        return Place(self.sequence, len(self.ids) - len(self.sequence.ids))

    def catch_up(self, count: int) -> None:
        """Turns back to what the answer kept of the drafts, to make `count` new ones."""
        ids = self.sequence.ids
        same = min(self.sure, self.computed) if self.ids else self.table.find(ids, len(ids) - 1)
        while same < min(self.computed, len(ids)) and self.ids[same] == ids[same]:
            same += 1
        self.computed = min(same, len(ids) - 1)  # the last one is always run, for its logits
        self.table.record(ids, self.computed)
        self.ids, self.sure, self.left, self.odds = list(ids), len(ids), count, []

    def take(self, i: int) -> None:
        self.ids.append(i)
        self.left -= 1
        self.sequence.drafts.append(i)


Draft = Literal["ngram"] | tuple[Transformer, TextTokenizer] | None


def proposer(draft: Draft, tokenizer: TextTokenizer, sampler: Sampler, slots: int, length: int) -> Proposer | None:
    """What an engine's `draft` stands for. Raises ConfigError where it cannot draft for the engine's network."""
    if draft is None:
        return None
    if draft == "ngram":
        return NGrams()
    if not isinstance(draft, tuple):
        raise ConfigError(f"draft={draft!r} must be 'ngram' or a model.")
    network, theirs = draft
    if theirs.fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            "The draft model's tokenizer is not the model's own, so that its ids mean other texts; take a model that "
            "was made with the same tokenizer, or draft='ngram'."
        )
    if network.config.encoder_layers:
        raise ConfigError("A draft model reads what a decoder reads, and this one has an encoder; take draft='ngram'.")
    return DraftModel(network, sampler, frozenset(tokenizer.ends), slots, length)
