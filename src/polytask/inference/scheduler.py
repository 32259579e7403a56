"""Who runs next: a step is {sequence: number of its tokens to run}, for prompts, decoding and drafts alike."""

import bisect
import heapq
import time
from collections.abc import Callable, Iterable

from polytask.inference.blocks import BLOCK, BlockPool
from polytask.inference.sequence import Group, Sequence

LEAST = 16  # tokens of prompts in every step, however many sequences are decoding
FIRST, MOST = 512, 4096  # tokens of a step before its speed is known, and at all
PAUSE = 0.25  # seconds that a step should take at most, so that nobody's answer stops for longer
ALONE = 4  # times as long where one prompt is all there is: a large network reads many tokens at once far faster
PATIENCE = 30.0  # seconds after which a request is served before all that are newer, whatever their priority


class Pace:
    """How many tokens a step may have, so that it takes about PAUSE seconds; always `chunk` where that is given.

    A fixed number would be seconds of waiting with one network and would leave the machine half idle with another:
    between the smallest and the largest that run here lies a factor of thousands.
    """

    def __init__(self, chunk: int | None = None):
        self.fixed, self.tokens, self._known = chunk is not None, chunk or FIRST, False

    def budget(self, alone: bool) -> int:
        """Tokens of the next step, in which one prompt is `alone` or there are others."""
        longer = alone and self._known and not self.fixed
        return min(ALONE * self.tokens, MOST) if longer else self.tokens

    def note(self, tokens: int, seconds: float) -> None:
        """Learns from a step that read prompts."""
        self._known = True
        if not self.fixed:
            wanted = min(tokens / max(seconds, 1e-6) * PAUSE, 2 * self.tokens)
            self.tokens = int(min(max((self.tokens + wanted) / 2, LEAST), MOST))


class Scheduler:
    """First come, first served within a priority. Every step decodes all that can; what is left of it reads prompts.

    Where blocks run out, the last of the running groups gives its own back and waits at the head of its priority; what
    it has produced stays, and is read again like a prompt. The first in rank never does, so all come to an end.
    """

    def __init__(
        self, pool: BlockPool, slots: int, chunk: int | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self.pool, self.pace, self.clock, self.now = pool, Pace(chunk), clock, clock()
        self.slots = list(range(slots))  # free ones
        self.waiting: list[Group] = []  # by priority, then as they came
        self._arrivals: list[tuple[float, tuple[int, int], Group]] = []  # a heap: those that wait, and some no longer
        self.running: list[Group] = []
        self.preemptions = self.hits = self.tokens = 0

    def add(self, group: Group) -> None:
        self._wait(group)

    def _wait(self, group: Group) -> None:
        group.waits = True
        bisect.insort(self.waiting, group, key=lambda other: (other.request.priority, other.place))
        heapq.heappush(self._arrivals, (group.arrived, group.place, group))

    def _go(self, group: Group) -> None:
        self.waiting.remove(group)
        group.waits = False
        if len(self._arrivals) > 2 * len(self.waiting):  # those that have gone are not kept
            self._arrivals = [(other.arrived, other.place, other) for other in self.waiting]
            heapq.heapify(self._arrivals)

    def _rank(self, group: Group) -> tuple[bool, int, tuple[int, int]]:
        old = self.now - group.arrived > PATIENCE
        return not old, 0 if old else group.request.priority, group.place

    # Waiting to running

    def admit(self) -> list[Group]:
        """Groups that may run from now on. One that does not fit yet is not overtaken, so it cannot starve."""
        self.now = self.clock()  # ranks stay as they are for a step
        admitted, left = [], self.pace.tokens
        while self.waiting and self.slots and left > 0:
            group = self._next()
            if not self._enter(group):
                break
            self._go(group)
            self.running.append(group)
            admitted.append(group)
            left -= len(group.request.encoder_ids or []) if group.unread else 0  # all of these are read before the step
        return admitted

    def _next(self) -> Group:
        """The first in rank of those that wait."""
        while not (oldest := self._arrivals[0][-1]).waits:
            heapq.heappop(self._arrivals)
        return self.waiting[0] if self._rank(oldest)[0] else oldest

    def _enter(self, group: Group) -> bool:
        """Gives a group its slots, and what the cache already knows; nothing where that or the rest does not fit."""
        sequences = [s for s in group.sequences if s.finish is None]
        if len(sequences) > len(self.slots):
            return False
        read = group.request.encoder_ids or []
        group.unread = not group.memory.find_whole(read)
        wanted = -(-len(read) // BLOCK) if group.unread else 0
        for sequence in group.active:
            self._look_up(sequence)
            wanted += len(sequence.ids) // BLOCK + 1 - len(sequence.table.blocks)
        if (wanted > self.pool.free and self.running) or not group.memory.grow(len(read)):
            self._vacate(group)
            return False
        group.memory.record_whole(read)
        first = group.sequences[0]
        first.cached += len(read) if not group.unread and not first.produced else 0
        for sequence in sequences:
            sequence.slot = self.slots.pop()
        self.hits += sum(sequence.computed for sequence in group.active)
        return True

    def _look_up(self, sequence: Sequence) -> int:
        """Takes blocks that hold the next ids; how many ids."""
        table, before = sequence.table, sequence.computed
        if before == len(table.blocks) * BLOCK:
            sequence.computed = table.find(sequence.ids, sequence.findable)
        found = sequence.computed - before
        sequence.cached += 0 if sequence.produced else found  # what it wrote itself, before it gave way, is no hit
        return found

    # A step

    def plan(self) -> dict[Sequence, int]:
        """How many tokens each sequence runs in this step; there are blocks for all of them."""
        self.running.sort(key=self._rank)
        plan: dict[Sequence, int] = {}
        for group in list(self.running):
            self._decode(group, plan)
        left = max(self.pace.budget(alone=not plan and len(self.running) == 1) - sum(plan.values()), LEAST)
        for group in list(self.running):
            for sequence in self._readers(group):
                if left <= 0:
                    return plan
                left -= self._read(sequence, left, plan)
        return plan

    def _decode(self, group: Group, plan: dict[Sequence, int]) -> None:
        active = group.active
        if group.beam and any(sequence.reading for sequence in active):
            return  # a beam goes on with all of its rows at once
        for sequence in active:
            if sequence.reading or group not in self.running:
                continue
            if sequence.drafts and not sequence.table.grow(sequence.computed + sequence.pending):
                sequence.drafts = []  # nobody has to go for a guess
            tokens = sequence.pending
            if self._reserve(sequence, tokens, plan):
                plan[sequence] = tokens

    def _readers(self, group: Group) -> Iterable[Sequence]:
        return [s for s in group.active if s.reading] if group in self.running else []

    def _read(self, sequence: Sequence, left: int, plan: dict[Sequence, int]) -> int:
        """Plans the next part of a prompt; how many tokens it has."""
        if sequence.group not in self.running:
            return 0
        self.hits += self._look_up(sequence)  # what another prompt wrote, or writes in this step
        # What is seen from both sides cannot be read in parts.
        tokens = min(sequence.pending, max(left, sequence.prefix - sequence.computed))
        if sequence.group.beam and tokens == sequence.pending and len(sequence.group.active) > 1:
            tokens -= 1
        if not tokens or not self._reserve(sequence, tokens, plan):
            return 0
        plan[sequence] = tokens
        sequence.table.record(sequence.ids, sequence.computed + tokens)
        return tokens

    def _reserve(self, sequence: Sequence, tokens: int, plan: dict[Sequence, int]) -> bool:
        """Blocks for the next tokens, taken from others of lower rank if need be; False where it had to go itself."""
        end = sequence.computed + tokens
        room = sequence.prompt + sequence.limit - end
        while not sequence.table.grow(end, room):
            last = max(self.running, key=self._rank)
            self._preempt(last, plan)
            if last is sequence.group:
                return False
        return True

    def _preempt(self, group: Group, plan: dict[Sequence, int]) -> None:
        for sequence in group.sequences:
            plan.pop(sequence, None)
        self.running.remove(group)
        self._vacate(group)
        self._wait(group)
        self.preemptions += 1

    def ran(self, plan: dict[Sequence, int], seconds: float) -> None:
        """Takes note of a step that was run as planned."""
        read = [sequence for sequence in plan if sequence.reading]
        for sequence, tokens in plan.items():
            sequence.computed += tokens
        total = sum(plan.values())
        self.tokens += total
        if sum(plan[sequence] for sequence in read) >= LEAST:
            self.pace.note(total, seconds)

    # Leaving

    def remove(self, group: Group) -> None:
        """Takes a group out, wherever it is, and frees all that it holds."""
        self._go(group) if group.waits else self.running.remove(group)
        self._vacate(group)

    def finish(self, sequences: list[Sequence]) -> None:
        """Frees what complete answers hold; a group whose last one is leaves."""
        for sequence in sequences:
            self._leave(sequence)
        for group in {id(s.group): s.group for s in sequences}.values():
            if all(s.finish for s in group.sequences):
                self.remove(group)

    def _vacate(self, group: Group) -> None:
        for sequence in group.sequences:
            self._leave(sequence)
            sequence.cached = sequence.cached if sequence.produced else 0
        group.memory.release(0 if group.unread else None)
        group.unread = True

    def _leave(self, sequence: Sequence) -> None:
        """What a sequence wrote stays in its blocks, to be found again until they are needed."""
        written = min(sequence.computed, len(sequence.ids))
        if sequence.table.blocks:
            sequence.table.record(sequence.ids, written)
        sequence.table.release(written)
        sequence.computed, sequence.drafts = 0, []
        if sequence.slot >= 0:
            self.slots.append(sequence.slot)
            sequence.slot = -1
