"""A request, what grows from it, and what is handed back."""

import bisect
import hashlib
import math
from collections.abc import Collection
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from polytask.inference.blocks import BlockPool, Table
from polytask.inference.constrained import Constraint
from polytask.inference.hooks import LogitsHook
from polytask.inference.sampling import Sampling
from polytask.inference.scoring import Score, Weighed
from polytask.tasks.segment import Image, Segment, Text
from polytask.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from polytask.inference.beam import BeamSearch
    from polytask.inference.handle import Handle

Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Drawing:
    """An answer that is a picture, or the rest of one: so many `tokens`, each one of `codes` ids from `first` on."""

    first: int
    codes: int
    tokens: int


@dataclass(frozen=True, eq=False)
class Given:
    """States (M, D) that stand for the embeddings of the prompt's ids at `places`, in ascending order: pictures."""

    places: list[int]
    states: Tensor

    @cached_property
    def digest(self) -> bytes:
        """What tells them from others: keys and values of a prompt depend on them."""
        return hashlib.sha256(self.states.detach().float().cpu().numpy().tobytes()).digest()

    def within(self, start: int, count: int) -> tuple[list[int], Tensor]:
        """Those of `count` places from `start` on: where they stand, counted from there, and their states."""
        first, end = (bisect.bisect_left(self.places, place) for place in (start, start + count))
        return [place - start for place in self.places[first:end]], self.states[first:end]


@dataclass(frozen=True)
class Request:
    """What is asked: the prompt's ids; of an encoder-decoder the decoder's first ids, and encoder_ids beside.

    prefix: how many of the first ids all see each other (prefix language models). priority: lower ones run first,
    those of one priority as they come. drawing: what is written is a picture, which ends by its length alone.
    given: pictures in the prompt. continues: the answer goes on with the prompt's last text. continuations: nothing is
    written, and instead it is weighed how likely each of these is behind the prompt; see `scoring`.
    """

    ids: list[int]
    sampling: Sampling = Sampling()
    encoder_ids: list[int] | None = None
    hooks: tuple[LogitsHook, ...] = ()
    prefix: int = 0
    priority: int = 0
    drawing: Drawing | None = None
    given: Given | None = None
    continues: bool = False
    continuations: tuple[list[int], ...] = ()

    @classmethod
    def scoring(cls, ids: list[int], continuations: Listing[list[int]], logprobs: int = 0, **more: Any) -> "Request":
        """Asks how likely each of some continuations is, with so many of the likeliest ids in each of its places."""
        sampling = Sampling(n=max(len(continuations), 1), logprobs=logprobs)
        return cls(ids, sampling, continuations=tuple(continuations), **more)

    @property
    def read(self) -> int:
        """Tokens that are read: the prompt's, and those that are scored."""
        return len(self.ids) + len(self.encoder_ids or []) + sum(map(len, self.continuations))

    @property
    def spaced(self) -> bool:
        """Whether a space before the first word of the answer is one of its own. A guide has it beside its grammar."""
        return self.continues and self.sampling.guide is None

    def limit(self, length: int) -> int:
        """How many tokens an answer has at most, where a sequence has at most `length`."""
        if self.continuations:
            return max(map(len, self.continuations)) - 1  # the last one is never read
        return min(self.drawing.tokens if self.drawing else self.sampling.max_tokens, length - len(self.ids))


@dataclass
class Completion:
    """One answer, or what was to be scored: then `greedy` says whether each of its ids is the likeliest.

    text is empty where a picture was drawn, which `picture` holds as a PNG once its ids were decoded. ids: what was
    produced, without the end that closed it; with a stop text they go on to its end, `text` does not. logprob: sum by
    the network alone (natural logarithm), that of the closing <|end|> included, over `tokens` of them. logprobs: for
    each id the likeliest tokens and, last if it is not among them, the id itself. ties: places in `ids` where in lower
    precision the two best logits nearly tied (within 1e-2, relative to the best where that is above 1): another batch
    may choose the other there. An <|end|> so chosen counts as place len(ids).
    cached: so many tokens of the prompt, which its answers share, were found in the cache and not run again.
    """

    text: str
    ids: list[int]
    logprob: float
    finish: Finish
    logprobs: list[dict[int, float]] | None = None
    ties: list[int] = field(default_factory=list)
    tokens: int = 0
    picture: bytes | None = field(default=None, repr=False)
    cached: int = 0
    greedy: bool = False
    scored: bool = False

    @property
    def segment(self) -> Segment:
        """What was produced, as an answer to a task."""
        return Text(self.text, target=True) if self.picture is None else Image(self.picture, target=True)

    @property
    def score(self) -> Score:
        """How likely it is."""
        return Score(self.logprob, self.tokens, self.greedy, self.logprobs)

    @property
    def mean(self) -> float:
        """The mean log-probability of a token."""
        return self.logprob / max(self.tokens, 1)


class TextOutput:
    """Ids become text that may be shown: what could be the beginning of a stop text waits until it is clear."""

    def __init__(self, tokenizer: TextTokenizer, request: Request):
        self._stream = tokenizer.stream(within=request.spaced)
        self._stop = request.sampling.stop
        self._held = ""

    def push(self, i: int, may_stop: bool) -> tuple[str, bool]:
        """The text that may be shown after this id, and whether a stop text ended it (never, unless `may_stop`)."""
        return self._release(self._stream.push(i), may_stop)

    def flush(self) -> str:
        """What was still held, at the end of an answer."""
        text, _ = self._release(self._stream.flush(), True)
        held, self._held = self._held, ""
        return text + held

    def _release(self, text: str, may_stop: bool) -> tuple[str, bool]:
        if not self._stop:
            return text, False
        held = self._held + text
        found = [place for place in (held.find(stop) for stop in self._stop) if place >= 0]
        if found and may_stop:
            self._held = ""
            return held[: min(found)], True
        keep = 0 if found else self._possible(held)
        if found:  # too early to stop: what completed a stop text is released, its rest may begin another
            after = max(held.rfind(stop) + len(stop) for stop in self._stop if stop in held)
            keep = self._possible(held[after:])
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def _possible(self, text: str) -> int:
        """Characters at the end of `text` that may begin a stop text."""
        longest = max(map(len, self._stop)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0


class Sequence:
    """Ids that grow: a prompt and what is produced after it. Its keys and values lie in the blocks of `table`.

    drafts: guesses of what comes after `ids`, run with it in the next step; whoever made them takes those that are
    right into `ids` and calls `keep`. odds: the probabilities (drafts, V) by which they were drawn, None where they
    were not. slot: its row in the tables of the sampler. wanted: ids that are weighed behind the prompt, in place of
    an answer; weighed: what is known of them, by their place.
    """

    __slots__ = (
        "cached", "closed", "computed", "constraint", "drafts", "drawing", "error", "finish", "given", "group", "hooks",
        "ids", "index", "limit", "logprob", "logprobs", "odds", "output", "pieces", "prefix", "prompt", "sampling",
        "slot", "table", "ties", "waits", "wanted", "weighed",
    )  # fmt: skip

    def __init__(self, request: Request, index: int, limit: int, tokenizer: TextTokenizer, pool: BlockPool):
        self.sampling, self.hooks, self.index, self.limit = request.sampling, request.hooks, index, limit
        self.drawing, self.given = request.drawing, request.given
        self.ids, self.prompt, self.prefix = list(request.ids), len(request.ids), request.prefix
        self.wanted = request.continuations[index] if request.continuations else None
        self.weighed: dict[int, Weighed] = {}
        self.ids += (self.wanted or [])[:-1]
        # What decides keys and values beside the tokens before them.
        read, both = tuple(request.encoder_ids or ()), tuple(request.ids[: request.prefix])
        self.table = Table(pool, (read, both, request.given.digest if request.given else b""))
        self.computed = 0  # how many ids have keys and values in the cache
        self.cached = 0  # of the prompt, found there when it was read
        self.drafts: list[int] = []
        self.odds: Tensor | None = None
        self.slot = -1
        self.waits = False  # for the first of its group to run the prompt that they share
        self.logprob = 0.0
        self.closed = False  # by an <|end|>
        self.finish: Finish | None = None
        self.constraint: Constraint | None = None
        self.error: Exception | None = None  # of one of its hooks, or of its guide
        self.logprobs: list[dict[int, float]] = []
        self.ties: list[int] = []
        self.output, self.pieces = TextOutput(tokenizer, request), list[str]()
        self.group: Group

    @property
    def pending(self) -> int:
        """How many ids the network has not seen, drafts included; more than those and one while a prompt is read."""
        return len(self.ids) + len(self.drafts) - self.computed

    @property
    def reading(self) -> bool:
        """Whether more than the last id is still to be run, or ids are weighed."""
        return len(self.ids) - self.computed > 1 or self.wanted is not None

    @property
    def findable(self) -> int:
        """How many of the first ids need not be run where the cache has them; those behind are run for what they
        predict."""
        return (len(self.ids) if self.wanted is None else self.prompt) - 1

    def predicted(self, count: int) -> range:
        """Places of `wanted` that the next `count` ids predict."""
        first = self.computed - (self.prompt - 1)
        return range(max(first, 0), max(first + count, 0)) if self.wanted is not None else range(0)

    @property
    def active(self) -> bool:
        return not self.waits and self.finish is None

    def upcoming(self, count: int) -> list[int]:
        """The next `count` ids to run."""
        ids = self.ids[self.computed : self.computed + count]
        return ids + self.drafts[: count - len(ids)] if len(ids) < count else ids

    def keep(self, computed: int) -> None:
        """Turns back to the first `computed` places: what lies beyond belonged to drafts that were wrong."""
        self.computed, self.drafts, self.odds = computed, [], None

    def share(self, table: Table, computed: int) -> list[tuple[int, int]]:
        """Goes on from another sequence's first `computed` ids; (source, target) of the blocks to copy for that."""
        self.table, copies, self.computed = table.fork(computed)
        return copies

    @property
    def produced(self) -> int:
        return len(self.ids) - self.prompt if self.wanted is None else 0

    def accept(self, i: int, logprob: float, ends: Collection[int]) -> str:
        """Takes the next id; the text that may be shown. Sets `finish` where it is the last one."""
        self.logprob += logprob
        if self.drawing is not None:
            self.ids.append(i)
            self.finish = "stop" if self.produced >= self.limit else None
            return ""
        if i in ends:
            self.closed = True
            return self.close("stop")
        self.ids.append(i)
        text, stopped = self.output.push(i, self.produced >= self.sampling.min_tokens)
        self.pieces.append(text)
        if stopped:
            self.finish = "stop"
        elif self.produced >= self.limit:
            text += self.close("length")
        return text

    def close(self, finish: Finish) -> str:
        self.finish = finish
        text = self.output.flush()
        self.pieces.append(text)
        return text

    def completion(self) -> Completion:
        if self.wanted is not None:
            return self._scored(self.wanted)
        logprobs = self.logprobs if self.sampling.logprobs else None
        finish = self.finish or "cancelled"
        tokens = self.produced + self.closed
        return Completion(
            "".join(self.pieces), self.ids[self.prompt :], self.logprob, finish, logprobs, self.ties, tokens,
            cached=self.group.sequences[0].cached,
        )  # fmt: skip

    def _scored(self, wanted: list[int]) -> Completion:
        known, top = [self.weighed[place] for place in sorted(self.weighed)], self.sampling.logprobs
        logprobs = [dict(list(w.best.items())[:top]) | {i: w.logprob} for i, w in zip(wanted, known)] if top else None
        total, finish = math.fsum(w.logprob for w in known), self.finish or "cancelled"
        return Completion(
            "", wanted, total, finish, logprobs, tokens=len(known), cached=self.cached,
            greedy=all(w.greedy for w in known), scored=True,
        )  # fmt: skip


@dataclass(eq=False)
class Group:
    """Sequences of one request that share a prompt: it runs once, in the first one's blocks, which the others share.

    memory: the blocks of what an encoder reads; unread: it has still to be read. place: among all that arrived, at time
    `arrived` in seconds.
    """

    handle: "Handle"
    request: Request
    sequences: list[Sequence]
    memory: Table
    place: tuple[int, int]
    arrived: float
    beam: "BeamSearch | None" = None
    unread: bool = True
    waits: bool = False  # to be admitted

    def __post_init__(self) -> None:
        for place, sequence in enumerate(self.sequences):
            sequence.group, sequence.waits = self, place > 0

    @property
    def active(self) -> list[Sequence]:
        """Those that run, or would."""
        return [sequence for sequence in self.sequences if sequence.active]
