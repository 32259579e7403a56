"""Requests in, answers out: `submit` from any thread, `step` runs all that is under way once."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Listing
from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.errors import ConfigError
from polytask.inference import admission
from polytask.inference.beam import BeamSearch
from polytask.inference.blocks import BLOCK, BlockPool, Table
from polytask.inference.constrained import Grammars
from polytask.inference.graphs import Capture, CudaCapture, Graphs
from polytask.inference.handle import Event, Handle, answers_of
from polytask.inference.native import Native
from polytask.inference.room import Room, weight_bytes
from polytask.inference.runner import Runner
from polytask.inference.sampling import Chosen, Place, Sampler
from polytask.inference.scheduler import PATIENCE, Scheduler
from polytask.inference.scoring import Score
from polytask.inference.sequence import Completion, Finish, Group, Request, Sequence, TextOutput
from polytask.inference.speculative import Draft, DraftModel, Speculator, proposer
from polytask.inference.steps import Steps, kinds_of
from polytask.models.transformer import Transformer
from polytask.nn.composition import Composition
from polytask.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class Stats:
    """What an engine does and holds at a moment.

    waiting and running count requests (groups of samples that run together). cache_tokens: how many the cache holds at
    most; the bytes are those of a draft model, too. hit_tokens: so many were found in it and not run again; run_tokens:
    so many were run, decoding and drafts included. drafted_tokens: so many were guessed ahead, of which accepted_tokens
    were right.
    """

    waiting: int
    running: int
    free_blocks: int
    total_blocks: int
    cache_tokens: int
    weight_bytes: int
    cache_bytes: int
    hit_tokens: int
    run_tokens: int
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int


class Engine:
    """Runs many requests on one network; a batch gives what each alone would give.

    max_requests bounds the answers that are written at once, max_length the tokens of one sequence, prompt included
    (the network's context by default; never more than the cache holds). room: how large the key/value cache is. chunk:
    tokens of a step; None adapts them to the speed of the network, so that a long prompt does not hold up the answers
    of others. draft: what guesses several tokens ahead, "ngram" or a smaller network with its tokenizer (see
    `speculative`). capture: what records steps of decoding; None records them as CUDA graphs on a GPU (see `graphs`),
    and has our library make them on a CPU (`native`). The network may be changed (trained, adapted, quantised) while
    nothing runs; how that is seen, `nn.composition` says.
    """

    def __init__(
        self, network: Transformer, tokenizer: TextTokenizer, max_requests: int = 32, max_length: int | None = None, *,
        room: Room | None = None, chunk: int | None = None, draft: Draft = None, capture: Capture | None = None,
    ):  # fmt: skip
        if network.config.vocab_size < tokenizer.vocab_size:
            raise ConfigError(
                f"The tokenizer has {tokenizer.vocab_size} ids, but the model knows {network.config.vocab_size}; use "
                "the tokenizer that belongs to the model."
            )
        self.network, self.tokenizer, self.max_requests = network.eval(), tokenizer, max_requests
        context = network.config.context_length
        self.length = min(max_length or context, context)
        if not tokenizer.ends:
            raise ConfigError("The tokenizer has no token that ends an answer; add it to the model's config.json.")
        self.ends = frozenset(tokenizer.ends)
        device = network.embedding.weight.device
        # Special tokens other than the ends belong to prompts; rows past the tokenizer's ids were never trained.
        never = {*tokenizer.special.values(), *range(tokenizer.vocab_size, network.config.vocab_size)} - self.ends
        vocabulary = network.config.vocab_size
        self.grammars = Grammars(tokenizer, vocabulary, device)
        self.cache = network.new_cache((room or Room()).blocks(network, max_requests, self.length))
        self.length = min(self.length, self.cache.blocks * BLOCK)
        self.reads = context if network.config.encoder_layers else self.length  # tokens of the longest text
        self.sampler = Sampler(
            max_requests, vocabulary, self.length, sorted(self.ends), sorted(never), device, self.grammars
        )
        self.pool = BlockPool(self.cache.blocks)
        self.scheduler = Scheduler(self.pool, max_requests, chunk)
        self.runner = Runner(network, self.cache, self._steps(never, capture))
        self.speculator = Speculator(proposer(draft, tokenizer, self.sampler, max_requests, self.length))
        self._composition = Composition(network)
        self._lock, self._submitted = threading.RLock(), deque[Group]()
        self._arrivals, self._numbers = itertools.count(), itertools.count()

    def _steps(self, never: Iterable[int], capture: Capture | None) -> Steps | None:
        """What makes several steps of decoding at once."""
        if (kinds := kinds_of(self.network, self.ends, never)) is None:
            return None
        if kinds.is_cuda or capture is not None:
            if self.network.config.grid is not None:  # where in a picture a code stands is not in the recorded state
                return None
            return Graphs(self.network, self.cache, kinds, self.length, capture or CudaCapture())
        return Native(self.network, self.cache, kinds, self.length, self.sampler) if kinds.is_cpu else None

    def submit(self, request: Request) -> Handle:
        """Queues a request, without waiting for a step under way. Raises ConfigError where it can never fit, or its
        guide cannot be followed."""
        length = admission.longest(request, self.length, self.pool.total * BLOCK)
        size = admission.samples_at_once(
            request, self.network.config, length, self.max_requests, self.pool.total * BLOCK
        )
        handle = Handle(request, self.step, self.cancel)
        sampling = request.sampling
        constraint = self.grammars.compile(sampling.guide) if sampling.guide else None
        limit = request.limit(length)
        samples = range(max(sampling.samples, sampling.beam_size))
        sequences = [Sequence(request, sample, limit, self.tokenizer, self.pool) for sample in samples]
        for sequence in sequences:
            sequence.constraint = constraint and constraint.copy()
        # More samples than the engine writes at once form groups that come after each other, as if each came with a
        # later request: who asks for many answers does not hold up all who come after.
        arrival = next(self._arrivals)
        for turn, start in enumerate(range(0, len(sequences), size)):
            read = tuple(request.encoder_ids or ())
            memory, now = Table(self.pool, ("read", read)), self.scheduler.clock() + turn * PATIENCE
            place = arrival + turn, next(self._numbers)
            group = Group(handle, request, sequences[start : start + size], memory, place, now)
            group.beam = BeamSearch(group.sequences, self.ends) if sampling.beam_size > 1 else None
            self._submitted.append(group)
        return handle

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._submitted or self.scheduler.waiting or self.scheduler.running)

    def stats(self) -> Stats:
        """Counts of now; those of requests may be of a moment within a step."""
        scheduler, pool, draft = self.scheduler, self.pool, self.speculator.proposer
        held = [(self.network, self.cache), *([(draft.network, draft.cache)] if isinstance(draft, DraftModel) else [])]
        return Stats(
            waiting=len(scheduler.waiting) + len(self._submitted), running=len(scheduler.running),
            free_blocks=pool.free, total_blocks=pool.total, cache_tokens=pool.total * BLOCK,
            weight_bytes=sum(weight_bytes(network) for network, _ in held),
            cache_bytes=sum(cache.bytes for _, cache in held),
            hit_tokens=scheduler.hits, run_tokens=scheduler.tokens, preemptions=scheduler.preemptions,
            drafted_tokens=self.speculator.drafted, accepted_tokens=self.speculator.accepted,
        )  # fmt: skip

    def run(self, requests: Listing[Request]) -> list[list[Completion]]:
        """The completions of each request, in order."""
        return answers_of(self.submit, requests)

    def score(self, requests: Listing[Request]) -> list[list[Score]]:
        """How likely the continuations of each request are; see `Request.scoring`. A prompt's own tokens are those that
        continue its first one."""
        return [[one.score for one in scored] for scored in self.run(requests)]

    @torch.inference_mode()
    def cancel(self, handle: Handle) -> None:
        """Ends a request, wherever it is; nothing happens where it has already ended."""
        with self._lock:
            self._receive()
            for group in [] if handle.done else self._groups_of(handle):
                self.scheduler.remove(group)
                for sequence in group.sequences:
                    if not sequence.finish and sequence.index < handle.request.sampling.samples:
                        sequence.close("cancelled")
                        self._report(sequence, "", [])

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One forward pass for all that runs; nothing where nothing waits.

        An error ends the requests that the pass or the choice was for, which their handles raise; the others go on.
        """
        with self._lock:
            self._receive()
            if self.scheduler.waiting and not self.scheduler.running and self._composition.changed():
                self.pool.clear()
                self.runner.renew()
            admitted, plan, events = self.scheduler.admit(), {}, list[Event]()
            try:
                for group in admitted:
                    for sequence in group.sequences:
                        if sequence.slot >= 0:
                            self.sampler.admit(sequence)
                if unread := [group for group in admitted if group.unread and group.request.encoder_ids]:
                    self.runner.read(unread)
                for group in unread:
                    group.unread = False
                self.speculator.draft(self.scheduler.running)
                if self.speculator.proposer is None and not self.scheduler.waiting:
                    self.runner.foresee(self.scheduler.running, self.pool.free)
                admitted, plan = [], self.scheduler.plan()
                if plan:
                    self._run(plan, events)
            except BaseException as error:
                touched = {id(g): g for g in (*admitted, *(s.group for s in plan if not s.finish))}
                failed = [event for group in touched.values() for event in self._fail(group, error)]
                if not failed or not isinstance(error, Exception):  # a user's interrupt is no request's failure
                    raise
                events += failed
            return events

    def _receive(self) -> None:
        while self._submitted:
            group = self._submitted.popleft()
            if group.handle.error is None:  # else an earlier group of the same request failed
                self.scheduler.add(group)

    def _groups_of(self, handle: Handle) -> list[Group]:
        return [g for g in (*self.scheduler.waiting, *self.scheduler.running) if g.handle is handle]

    def _fail(self, group: Group, error: BaseException) -> list[Event]:
        """Ends the whole request of a group."""
        handle = group.handle
        for other in self._groups_of(handle):
            self.scheduler.remove(other)
        if handle.error is not None:
            return []
        handle.fail(error)
        return [Event(handle, i, "", "error") for i in range(handle.request.sampling.n) if i not in handle.completions]

    def _run(self, plan: dict[Sequence, int], events: list[Event]) -> None:
        start = time.perf_counter()
        logits = self.runner.run(plan)
        self.scheduler.ran(plan, time.perf_counter() - start)
        self._scored([s for s in plan if s.wanted is not None and not s.pending], events)
        if logits.rows is None:
            return
        places = [Place(s, n) for s, count in zip(logits.sequences, logits.counts) for n in range(count)]
        beams, samples = [], []
        for row, place in enumerate(places):
            (samples if place.sequence.group.beam is None else beams).append(row)
        if samples:
            part = logits.rows if not beams else logits.rows[samples]
            self._sample([places[row] for row in samples], part, events, logits.chosen)
        if beams:
            self._search([places[row].sequence for row in beams], logits.rows[beams], events)

    def _scored(self, sequences: list[Sequence], events: list[Event]) -> None:
        """Passes on what was weighed to its end."""
        for sequence in sequences:
            sequence.finish = "stop"
            self._report(sequence, "", events)
        self.scheduler.finish(sequences)

    # Samples

    def _sample(self, places: list[Place], logits: Tensor, events: list[Event], chosen: Chosen | None = None) -> None:
        """Each sequence takes its next token from its row of logits, and goes on to the next row while the tokens are
        its drafts; where a prompt has just been read, the other samples of its group take theirs."""
        forked = [(row, Place(child)) for row, place in enumerate(places) for child in self._fork(place.sequence)]
        if forked:
            logits = torch.cat([logits, logits[[row for row, _ in forked]]])
            places = [*places, *(place for _, place in forked)]
        chosen = chosen or self.sampler.choose(logits, places)
        starts = {place.sequence: row for row, place in reversed(list(enumerate(places)))}
        finished, written = list[Sequence](), list[tuple[Sequence, int]]()
        for sequence, row in sorted(starts.items(), key=lambda pair: pair[1]):
            if sequence.error is not None:
                events += self._fail(sequence.group, sequence.error)
            if sequence.group.handle.error is not None:
                continue
            before = len(sequence.ids)
            self._take(sequence, chosen, row, events)
            written += [(sequence, i) for i in sequence.ids[before:]]
            if sequence.finish:
                finished.append(sequence)
        # Another sample may have failed after these took theirs, which ends the whole request.
        self.sampler.count((s, i) for s, i in written if s.group.handle.error is None)
        self.scheduler.finish([s for s in finished if s.group.handle.error is None])

    def _take(self, sequence: Sequence, chosen: Chosen, row: int, events: list[Event]) -> None:
        """What was chosen for a sequence, in its rows from `row` on."""
        drafts, before = sequence.drafts, len(sequence.ids)
        for right in range(len(drafts) + 1):
            i = chosen.ids[row + right]
            if chosen.top is not None and sequence.sampling.logprobs and i not in self.ends:
                best = dict(list(chosen.top[row + right].items())[: sequence.sampling.logprobs])
                sequence.logprobs.append(best | {i: chosen.logprobs[row + right]})
            if chosen.ties is not None and chosen.ties[row + right] and sequence.sampling.temperature == 0:
                sequence.ties.append(sequence.produced)
            text = sequence.accept(i, chosen.logprobs[row + right], self.ends)
            token = (i, sequence.logprobs[-1]) if sequence.sampling.logprobs and i not in self.ends else None
            self._report(sequence, text, events, token)
            if sequence.finish or right == len(drafts) or i != drafts[right]:
                break
        if drafts:
            self.speculator.learn(sequence, right)
            sequence.keep(before + right)

    def _report(
        self, sequence: Sequence, text: str, events: list[Event], token: tuple[int, dict[int, float]] | None = None
    ) -> None:  # fmt: skip
        """Passes on what a sequence has just written; of those among which the best are taken, once all are there."""
        handle, sampling = sequence.group.handle, sequence.sampling
        if sampling.samples > sampling.n:
            for sample, best in enumerate(handle.rank(sequence.completion()) if sequence.finish else []):
                self._deliver(handle, sample, best, events)
            return
        if text or sequence.finish or token:
            events.append(Event(handle, sequence.index, text, sequence.finish, token))
        handle.write(sequence.index, text)
        if sequence.finish:
            handle.complete(sequence.index, sequence.completion())

    def _deliver(self, handle: Handle, sample: int, completion: Completion, events: list[Event]) -> None:
        """Passes on an answer as a whole."""
        handle.write(sample, completion.text)
        handle.complete(sample, completion)
        events.append(Event(handle, sample, completion.text, completion.finish))

    def _fork(self, first: Sequence) -> list[Sequence]:
        """The sequences that waited for this one to run their prompt, which now share its blocks."""
        waiting = [s for s in first.group.sequences if s.waits] if first is first.group.sequences[0] else []
        copies: list[tuple[int, int]] = []
        for sequence in waiting:
            sequence.waits = False
            copies += sequence.share(first.table, first.computed)
        self._copy(copies)
        return waiting

    def _copy(self, copies: list[tuple[int, int]]) -> None:
        if copies:
            self.cache.copy(*zip(*copies))

    # Beams

    def _search(self, ready: list[Sequence], logits: Tensor, events: list[Event]) -> None:
        logprobs = logits.float().log_softmax(dim=-1)
        scores = self.sampler.adjust(logprobs, [Place(sequence) for sequence in ready])
        for group in {id(s.group): s.group for s in ready}.values():
            beam = group.beam
            assert beam is not None
            if error := next((s.error for s in group.sequences if s.error is not None), None):
                events += self._fail(group, error)
                continue
            order = [row for s in beam.sequences[: beam.live] for row, other in enumerate(ready) if other is s]
            live = beam.sequences[: beam.live]
            slots, tables, computed = [s.slot for s in live], [s.table for s in live], live[0].computed
            parents = beam.advance(scores[order], logprobs[order])
            if parents is None:
                self._complete(group, beam, events)
                continue
            copies: list[tuple[int, int]] = []
            for place, sequence in enumerate(beam.sequences):
                sequence.waits = place >= beam.live
                sequence.table, sequence.computed = Table(self.pool), 0
            for sequence, parent in zip(beam.sequences, parents):
                copies += sequence.share(tables[parent], computed)
            self._copy(copies)
            for table in tables:
                table.release()
            rows = [s.slot for s in beam.sequences[: beam.live]]
            self.sampler.reorder(rows, [slots[p] for p in parents])
            self.sampler.count((s, s.ids[-1]) for s in beam.sequences[: beam.live])

    def _complete(self, group: Group, beam: BeamSearch, events: list[Event]) -> None:
        n = group.request.sampling.n
        # A vocabulary of a few tokens may not hold so many different answers.
        best = (beam.finished * n)[:n] if len(beam.finished) < n else beam.finished[:n]
        for sample, hypothesis in enumerate(best):
            output = TextOutput(self.tokenizer, group.request)
            pieces, stopped = [], False
            for count, i in enumerate(hypothesis.ids, 1):
                piece, stopped = output.push(i, count >= group.request.sampling.min_tokens)
                pieces.append(piece)
                if stopped:
                    break
            pieces += [] if stopped else [output.flush()]
            text = "".join(pieces)
            finish: Finish = "stop" if hypothesis.ended or stopped else "length"
            tokens = len(hypothesis.ids) + hypothesis.ended
            answer = Completion(text, hypothesis.ids, hypothesis.logprob, finish, tokens=tokens)
            answer.cached = group.sequences[0].cached
            self._deliver(group.handle, sample, answer, events)
        self.scheduler.remove(group)
