"""Who runs next: a step is {sequence: number of its tokens to run}, for prompts and for decoding alike."""

from collections import deque

from polytask.inference.sequence import Group, Sequence
from polytask.inference.slots import SlotPool

LEAST = 16  # tokens of prompts in every step, however many sequences are decoding


class Scheduler:
    """First come, first served. Every step decodes all that can; what is left of `tokens` reads prompts, in chunks."""

    def __init__(self, pool: SlotPool, tokens: int):
        self.pool, self.tokens = pool, tokens
        self.waiting: deque[Group] = deque()
        self.running: list[Group] = []

    def add(self, group: Group) -> None:
        self.waiting.append(group)

    def admit(self) -> list[Group]:
        """Groups that get their slots now. One that does not fit yet is not overtaken, so it cannot starve."""
        admitted = []
        while self.waiting and len(self.waiting[0].sequences) <= self.pool.free:
            group = self.waiting.popleft()
            for sequence in group.sequences:
                self.pool.take(sequence)
            self.running.append(group)
            admitted.append(group)
        return admitted

    def plan(self) -> dict[Sequence, int]:
        """How many tokens each sequence runs in this step."""
        active = [s for group in self.running for s in group.sequences if not s.waits and s.slot >= 0]
        plan = {sequence: 1 for sequence in active if sequence.pending == 1}
        left = max(self.tokens - len(plan), LEAST)
        for sequence in active:
            if sequence.pending > 1 and left > 0:
                # What is seen from both sides cannot be read in chunks.
                plan[sequence] = min(sequence.pending, max(left, sequence.prefix - sequence.computed))
                left -= plan[sequence]
        return plan

    def remove(self, group: Group) -> None:
        """Takes a group out, wherever it is, and frees its slots."""
        if group in self.waiting:
            self.waiting.remove(group)
            return
        self.running.remove(group)
        self.pool.release([s for s in group.sequences if s.slot >= 0])

    def finish(self, sequences: list[Sequence]) -> None:
        """Frees the slots of answers that are complete; a group whose last one is leaves."""
        self.pool.release(sequences)
        for group in {id(s.group): s.group for s in sequences}.values():
            if all(s.finish for s in group.sequences):
                self.running.remove(group)
