"""Requests in, answers out: `submit` from any thread, `step` runs all that is under way once."""

import queue
import threading
from collections.abc import Iterator
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polytask.errors import ConfigError
from polytask.inference import scoring
from polytask.inference.beam import Beam
from polytask.inference.runner import Runner
from polytask.inference.sampling import choose, penalise
from polytask.inference.scheduler import Scheduler
from polytask.inference.sequence import Completion, Finish, Request, Score, Sequence, TextStream
from polytask.models.transformer import Transformer
from polytask.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class Event:
    """A piece of an answer: of which request and sample, its text, and why the answer ended where it did."""

    handle: "Handle"
    sample: int
    text: str
    finish: Finish | None = None


@dataclass(eq=False)
class Handle:
    """What `submit` gives: wait for it, iterate over the text of its first sample, or cancel it."""

    engine: "Engine"
    request: Request
    completions: dict[int, Completion] = field(default_factory=dict)
    pieces: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)

    @property
    def done(self) -> bool:
        return len(self.completions) == self.request.sampling.n

    def result(self) -> list[Completion]:
        """All samples; runs the engine until they are there, unless another thread does."""
        while not self.done:
            self.engine.step()
        return [self.completions[i] for i in range(self.request.sampling.n)]

    def __iter__(self) -> Iterator[str]:
        while True:
            while self.pieces.empty():
                self.engine.step()
            piece = self.pieces.get()
            if piece is None:
                return
            yield piece

    def cancel(self) -> None:
        """Ends the request; what it held is free at once."""
        self.engine.cancel(self)


class Engine:
    """Runs many requests on one network; a batch gives what each alone would give.

    max_requests bounds the rows of a step, max_length the tokens of one sequence (the network's context by default).
    """

    def __init__(
        self, network: Transformer, tokenizer: TextTokenizer, max_requests: int = 32, max_length: int | None = None
    ):
        self.network, self.tokenizer = network.eval(), tokenizer
        self.length = min(max_length or network.config.context_length, network.config.context_length)
        self.max_requests = max_requests
        self.scheduler = Scheduler(max_requests)
        self.runner = Runner(network, max_requests, self.length)
        self.end = tokenizer.special["<|end|>"]
        # Special tokens other than the end belong to prompts; rows past the tokenizer's ids were never trained.
        unwanted = set(tokenizer.special.values()) - {self.end}
        self.never = sorted(unwanted | set(range(tokenizer.vocab_size, network.config.vocab_size)))
        self._handles: dict[Sequence, Handle] = {}
        self._streams: dict[Sequence, TextStream] = {}
        self._lock = threading.RLock()

    def submit(self, request: Request) -> Handle:
        """Queues a request. Raises ConfigError where it cannot fit."""
        self._check(request)
        handle = Handle(self, request)
        beam = request.sampling.beam_size
        sequence = Beam(request, width=beam) if beam > 1 else Sequence(request)
        with self._lock:
            self._start(sequence, handle)
            self.scheduler.add(sequence)
        return handle

    def run(self, requests: Listing[Request]) -> list[list[Completion]]:
        """The completions of each request, in order."""
        handles = [self.submit(request) for request in requests]
        return [handle.result() for handle in handles]

    def score(self, pairs: Listing[tuple[list[int], list[int], list[int] | None]]) -> list[Score]:
        """The likelihood of continuations: (prompt ids, continuation ids, encoder ids or None) each."""
        for prompt, continuation, _ in pairs:
            if len(prompt) + len(continuation) > self.length + 1:
                raise ConfigError(
                    f"{len(prompt)} + {len(continuation)} tokens of prompt and continuation do not fit the context of "
                    f"{self.length}; shorten the text."
                )
        with self._lock:
            return scoring.score(self.network, pairs)

    def cancel(self, handle: Handle) -> None:
        with self._lock:
            for sequence in [s for s, h in self._handles.items() if h is handle]:
                self._finish(sequence, "cancelled")
            for sample in range(handle.request.sampling.n):
                handle.completions.setdefault(sample, Completion("", [], 0.0, "cancelled"))
            handle.pieces.put(None)

    def step(self) -> list[Event]:
        """One forward pass for all that runs; nothing where nothing waits."""
        with self._lock:
            plan, admitted = self.scheduler.schedule()
            self.runner.admit(admitted)
            events: list[Event] = []
            if plan:
                scores = self.runner.run(plan)
                self._advance_beams(scores, events)
                self._advance_samples(scores, events)
            return events

    def _check(self, request: Request) -> None:
        if not request.ids:
            raise ConfigError("A request needs at least one token to go on from.")
        if len(request.ids) >= self.length:
            raise ConfigError(
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
        if request.sampling.beam_size > self.max_requests:
            raise ConfigError(f"A beam of {request.sampling.beam_size} needs an engine with max_requests as large.")

    def _start(self, sequence: Sequence, handle: Handle) -> None:
        self._handles[sequence] = handle
        self._streams[sequence] = TextStream(self.tokenizer, sequence.request.sampling.stop)

    def _room(self, sequence: Sequence) -> int:
        """How many tokens the answer may have."""
        return min(sequence.request.sampling.max_tokens, self.length - len(sequence.request.ids))

    # Samples

    def _advance_samples(self, scores: dict[Sequence, Tensor], events: list[Event]) -> None:
        ready = [sequence for sequence in scores if not isinstance(sequence, Beam)]
        if not ready:
            return
        stacked = torch.cat([scores[sequence] for sequence in ready])
        for sequence in list(ready):
            children = self._fork(sequence)
            ready += children
            stacked = torch.cat([stacked, scores[sequence].expand(len(children), -1)]) if children else stacked
        raw = stacked.float()
        allowed = self._allowed(raw.clone(), ready)
        samplings = [sequence.request.sampling for sequence in ready]
        uniform = torch.tensor([s.uniform() if s.request.sampling.temperature > 0 else 0.0 for s in ready])
        tokens = choose(allowed, samplings, uniform.to(allowed.device))
        logprobs = raw.log_softmax(dim=-1)
        chosen = logprobs.gather(1, tokens[:, None]).squeeze(1).tolist()
        for row, (sequence, token, logprob) in enumerate(zip(ready, tokens.tolist(), chosen)):
            if wanted := sequence.request.sampling.logprobs:
                best = logprobs[row].topk(min(wanted, raw.shape[1]))
                sequence.logprobs.append({token: logprob} | dict(zip(best.indices.tolist(), best.values.tolist())))
            self._accept(sequence, token, logprob, events)

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """The other samples of a request whose prompt has just been run: in free slots by copying, else queued."""
        if sequence.forked or sequence.sample or sequence.request.sampling.n == 1:
            return []
        sequence.forked = True
        forked = []
        for sample in range(1, sequence.request.sampling.n):
            child = Sequence(sequence.request, sample=sample)
            self._start(child, self._handles[sequence])
            if self.scheduler.fork(sequence, child):
                self.runner.fork(sequence, child)
                child.computed = sequence.computed
                forked.append(child)
            else:
                self.scheduler.add(child)
        return forked

    def _allowed(self, scores: Tensor, sequences: list[Sequence]) -> Tensor:
        scores[:, self.never] = -torch.inf
        for row, sequence in enumerate(sequences):
            sampling = sequence.request.sampling
            if sampling.penalised:
                counts = torch.bincount(torch.tensor(sequence.generated, dtype=torch.long), minlength=scores.shape[1])
                seen = counts > 0
                seen[sequence.request.ids] = True
                scores[row] = penalise(scores[row], sampling, seen.to(scores.device), counts.to(scores.device))
            if len(sequence.generated) < sampling.min_tokens:
                scores[row, self.end] = -torch.inf
        return scores

    def _accept(self, sequence: Sequence, token: int, logprob: float, events: list[Event]) -> None:
        stream = self._streams[sequence]
        sequence.logprob += logprob
        if token == self.end:
            sequence.finish, piece = "stop", stream.flush()
        else:
            sequence.generated.append(token)
            piece = stream.push(token)
            if stream.stopped:
                sequence.finish = "stop"
            elif len(sequence.generated) >= self._room(sequence):
                sequence.finish = "length"
                piece += stream.flush()
        handle = self._handles[sequence]
        if piece or sequence.finish:
            events.append(Event(handle, sequence.sample, piece, sequence.finish))
        if piece and sequence.sample == 0:
            handle.pieces.put(piece)
        if sequence.finish:
            logprobs = sequence.logprobs if sequence.request.sampling.logprobs else None
            completion = Completion(stream.text, sequence.generated, sequence.logprob, sequence.finish, logprobs)
            self._complete(sequence, [completion])

    def _complete(self, sequence: Sequence, completions: list[Completion]) -> None:
        handle = self._handles[sequence]
        for offset, completion in enumerate(completions):
            handle.completions[sequence.sample + offset] = completion
        if sequence.sample == 0:
            handle.pieces.put(None)
        self._finish(sequence, sequence.finish)

    def _finish(self, sequence: Sequence, finish: Finish | None) -> None:
        sequence.finish = finish
        self.scheduler.release(sequence)
        del self._handles[sequence], self._streams[sequence]

    # Beams

    def _advance_beams(self, scores: dict[Sequence, Tensor], events: list[Event]) -> None:
        for beam in [sequence for sequence in scores if isinstance(sequence, Beam)]:
            first = not beam.generated
            early = len(beam.partial[0]) < beam.request.sampling.min_tokens
            banned = [*self.never, self.end] if early else self.never
            parents = beam.advance(scores[beam], self.end, self._room(beam), banned)
            if beam.finish:
                self._complete_beam(beam, events)
            elif first:
                self.runner.spread(beam)
            else:
                parents += [0] * (beam.width - len(parents))
                self.runner.reorder(beam, parents)

    def _complete_beam(self, beam: Beam, events: list[Event]) -> None:
        completions = []
        for hypothesis in beam.finished[: beam.request.sampling.n]:
            stream = TextStream(self.tokenizer, beam.request.sampling.stop)
            text = "".join([*map(stream.push, hypothesis.ids), stream.flush()])
            finish: Finish = "stop" if hypothesis.ended or stream.stopped else "length"
            completions.append(Completion(text, hypothesis.ids, hypothesis.logprob, finish))
        handle = self._handles[beam]
        handle.pieces.put(completions[0].text)
        events += [Event(handle, i, c.text, c.finish) for i, c in enumerate(completions)]
        while len(completions) < beam.request.sampling.n:  # a vocabulary too small to hold so many answers
            completions.append(completions[-1])
        self._complete(beam, completions)
