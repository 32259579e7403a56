"""Requests in, answers out: `submit` from any thread, `step` runs all that is under way once."""

import threading
from collections.abc import Sequence as Listing

import torch
from torch import Tensor

from polytask.errors import ConfigError, TooLong
from polytask.inference import scoring
from polytask.inference.beam import BeamSearch
from polytask.inference.handle import Event, Handle
from polytask.inference.runner import Runner
from polytask.inference.sampling import Sampler
from polytask.inference.scheduler import Scheduler
from polytask.inference.scoring import Score
from polytask.inference.sequence import Completion, Finish, Group, Request, Sequence, TextOutput
from polytask.inference.slots import SlotPool
from polytask.models.transformer import Transformer
from polytask.tokenizers.text import TextTokenizer

TOKENS = 4096  # of one step, prompts and decoding together


class Engine:
    """Runs many requests on one network; a batch gives what each alone would give.

    max_requests bounds the answers that are written at once, max_length the tokens of one sequence, prompt included
    (the network's context by default).
    """

    def __init__(
        self, network: Transformer, tokenizer: TextTokenizer, max_requests: int = 32, max_length: int | None = None
    ):
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
        self.sampler = Sampler(
            max_requests, network.config.vocab_size, self.length, sorted(self.ends), sorted(never), device
        )
        self.pool = SlotPool(network, max_requests, self.length, self.sampler.move)
        self.scheduler = Scheduler(self.pool, TOKENS)
        self.runner = Runner(network, self.pool)
        self._lock = threading.RLock()

    def submit(self, request: Request) -> Handle:
        """Queues a request. Raises ConfigError where it cannot fit."""
        self._check(request)
        handle = Handle(request, self.step, self.cancel)
        sampling = request.sampling
        limit = min(sampling.max_tokens, self.length - len(request.ids))
        samples = range(max(sampling.samples, sampling.beam_size))
        sequences = [Sequence(request, sample, limit, self.tokenizer) for sample in samples]
        with self._lock:
            # More samples than the engine writes at once form groups that come after each other.
            for start in range(0, len(sequences), self.max_requests):
                group = Group(handle, request, sequences[start : start + self.max_requests])
                group.beam = BeamSearch(group.sequences, self.ends) if sampling.beam_size > 1 else None
                self.scheduler.add(group)
        return handle

    def run(self, requests: Listing[Request]) -> list[list[Completion]]:
        """The completions of each request, in order."""
        handles = [self.submit(request) for request in requests]
        try:
            return [handle.result() for handle in handles]
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise

    def score(self, pairs: Listing[scoring.Pair], logprobs: int | None = None) -> list[Score]:
        """The likelihood of continuations, each a `scoring.Pair`; with `logprobs` that of every token too, beside so
        many likeliest ones. A prompt's own tokens are those that continue its first one."""
        for prompt, continuation, *_ in pairs:
            if not prompt:
                raise ConfigError("A continuation is scored after at least one token; give a prompt.")
            # The last token is predicted but never read.
            if len(prompt) + len(continuation) > self.length + 1:
                raise ConfigError(
                    f"{len(prompt)} tokens of prompt and {len(continuation)} to score do not fit the context of "
                    f"{self.length}; shorten the text."
                )
        with self._lock:
            return scoring.score(self.network, pairs, logprobs)

    @torch.inference_mode()
    def cancel(self, handle: Handle) -> None:
        """Ends a request, wherever it is; nothing happens where it has already ended."""
        with self._lock:
            for group in [g for g in (*self.scheduler.waiting, *self.scheduler.running) if g.handle is handle]:
                self.scheduler.remove(group)
                for sequence in group.sequences:
                    if not sequence.finish and sequence.index < handle.request.sampling.samples:
                        sequence.close("cancelled")
                        self._report(sequence, "", [])

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One forward pass for all that runs; nothing where nothing waits. An error ends the requests it touched."""
        with self._lock:
            try:
                return self._step()
            except BaseException as error:
                for group in list(self.scheduler.running):
                    self.scheduler.remove(group)
                    group.handle.fail(error)
                raise

    def _step(self) -> list[Event]:
        admitted = self.scheduler.admit()
        for group in admitted:
            for sequence in group.sequences:
                self.sampler.admit(sequence)
        if admitted and self.network.config.encoder_layers:
            first = [group.sequences[0] for group in admitted]
            self.runner.read(first, [group.request.encoder_ids or [] for group in admitted])
        plan = self.scheduler.plan()
        if not plan:
            return []
        ready, logits = self.runner.run(plan)
        if logits is None:
            return []
        beams, samples = [], []
        for row, sequence in enumerate(ready):
            (samples if sequence.group.beam is None else beams).append(row)
        events: list[Event] = []
        if samples:
            part = logits if not beams else logits[samples]
            self._sample([ready[row] for row in samples], part, events)
        if beams:
            self._search([ready[row] for row in beams], logits[beams], events)
        return events

    def _check(self, request: Request) -> None:
        if not request.ids:
            raise ConfigError("A request needs at least one token to go on from.")
        if len(request.ids) >= self.length:
            raise TooLong(
                f"The prompt has {len(request.ids)} tokens, but the context holds {self.length} with at least one of "
                "the answer; shorten the text or drop examples."
            )
        reads = bool(self.network.config.encoder_layers)
        if reads != (request.encoder_ids is not None):
            raise ConfigError("An encoder-decoder needs encoder_ids, and only an encoder-decoder takes them.")
        if reads and len(request.encoder_ids or []) > self.network.config.context_length:
            raise ConfigError(
                f"The text to read has {len(request.encoder_ids or [])} tokens, but the model reads "
                f"{self.network.config.context_length}; shorten it."
            )
        if wrong := [i for i in request.sampling.logit_bias if i >= self.network.config.vocab_size]:
            raise ConfigError(
                f"sampling: logit_bias names the id {wrong[0]}, but the model has {self.network.config.vocab_size}; "
                "the tokenizer knows the ids of a text."
            )
        if request.sampling.beam_size > self.max_requests:
            raise ConfigError(
                f"A beam of {request.sampling.beam_size} needs an engine that writes as many answers at once, and this "
                f"one writes {self.max_requests}; make the beam smaller."
            )

    # Samples

    def _sample(self, ready: list[Sequence], logits: Tensor, events: list[Event]) -> None:
        """Each sequence takes its next token from its row of logits; where a prompt has just been read, so do the other
        samples of its group."""
        forked = [(row, child) for row, s in enumerate(ready) for child in self._fork(s)]
        if forked:
            logits = torch.cat([logits, logits[[row for row, _ in forked]]])
            ready = [*ready, *(child for _, child in forked)]
        chosen = self.sampler.choose(logits, ready)
        finished: list[Sequence] = []
        for row, sequence in enumerate(ready):
            i = chosen.ids[row]
            if chosen.top is not None and sequence.sampling.logprobs and i not in self.ends:
                best = dict(list(chosen.top[row].items())[: sequence.sampling.logprobs])
                sequence.logprobs.append(best | {i: chosen.logprobs[row]})
            if chosen.ties is not None and chosen.ties[row] and sequence.sampling.temperature == 0:
                sequence.ties.append(sequence.produced)
            text = sequence.accept(i, chosen.logprobs[row], self.ends)
            self._report(sequence, text, events)
            if sequence.finish:
                finished.append(sequence)
        self.scheduler.finish(finished)

    def _report(self, sequence: Sequence, text: str, events: list[Event]) -> None:
        """Passes on what a sequence has just written; of those among which the best are taken, once all are there."""
        handle, sampling = sequence.group.handle, sequence.sampling
        if sampling.samples > sampling.n:
            for sample, best in enumerate(handle.rank(sequence.completion()) if sequence.finish else []):
                self._deliver(handle, sample, best, events)
            return
        if text or sequence.finish:
            events.append(Event(handle, sequence.index, text, sequence.finish))
        handle.write(sequence.index, text)
        if sequence.finish:
            handle.complete(sequence.index, sequence.completion())

    def _deliver(self, handle: Handle, sample: int, completion: Completion, events: list[Event]) -> None:
        """Passes on an answer as a whole."""
        handle.write(sample, completion.text)
        handle.complete(sample, completion)
        events.append(Event(handle, sample, completion.text, completion.finish))

    def _fork(self, first: Sequence) -> list[Sequence]:
        """The sequences that waited for this one to run their prompt, now with copies of its keys and values."""
        waiting = [s for s in first.group.sequences if s.waits] if first is first.group.sequences[0] else []
        if waiting:
            self.pool.room(first.computed).copy(first.slot, [s.slot for s in waiting], first.computed)
        for sequence in waiting:
            sequence.waits, sequence.computed = False, first.computed
        return waiting

    # Beams

    def _search(self, ready: list[Sequence], logits: Tensor, events: list[Event]) -> None:
        logprobs = logits.float().log_softmax(dim=-1)
        scores = self.sampler.adjust(logprobs, ready)
        for group in {id(s.group): s.group for s in ready}.values():
            beam = group.beam
            assert beam is not None
            order = [row for s in beam.sequences[: beam.live] for row, other in enumerate(ready) if other is s]
            first, slots = beam.sequences[0].produced == 0, [s.slot for s in beam.sequences]
            computed = beam.sequences[0].computed
            parents = beam.advance(scores[order], logprobs[order])
            if parents is None:
                self._complete(group, beam, events)
                continue
            for place, sequence in enumerate(beam.sequences):
                sequence.waits, sequence.computed = place >= beam.live, computed
            cache, rows, olds = self.pool.room(computed), slots[: beam.live], [slots[p] for p in parents]
            if first:  # what an encoder read goes along
                cache.copy(slots[0], slots[1:], computed)
            elif rows != olds:
                cache.reorder(rows, olds, computed)
            self.sampler.reorder(rows, olds)
            self.sampler.count(beam.sequences[: beam.live], [s.ids[-1] for s in beam.sequences[: beam.live]])

    def _complete(self, group: Group, beam: BeamSearch, events: list[Event]) -> None:
        n = group.request.sampling.n
        # A vocabulary of a few tokens may not hold so many different answers.
        best = (beam.finished * n)[:n] if len(beam.finished) < n else beam.finished[:n]
        for sample, hypothesis in enumerate(best):
            output = TextOutput(self.tokenizer, group.request.sampling.stop)
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
            self._deliver(group.handle, sample, answer, events)
        self.scheduler.remove(group)
