"""How the next token is chosen: the dials of a request, and one choice for all rows of a batch."""

import itertools
import math
import secrets
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from polytask.errors import ConfigError
from polytask.inference.constrained import Grammars, Guide

if TYPE_CHECKING:
    from polytask.inference.sequence import Sequence

RANKED = 1024  # tokens that are ranked before all are: a nucleus rarely has more
MOST = 1 << 16  # answers to one request
BIAS = 100.0  # of logit_bias at most; as much as the OpenAI API takes, and enough to ban or to force a token
TIE = 1e-2  # two logits so near to each other may change places when lower precision sums in another order


@dataclass(frozen=True)
class Sampling:
    """How a request is answered.

    temperature: 0 takes the likeliest token, and then top_k (0: all), top_p (Holtzman et al. 2020) and min_p (Nguyen et
    al. 2024: a share of the likeliest token's probability) have no effect. repetition_penalty divides positive and
    multiplies negative logits of tokens that came before, prompt included (Keskar et al. 2019); presence_penalty and
    frequency_penalty are subtracted once, and once for each time, for tokens that were produced. logit_bias: numbers
    from -100 to 100 added to the logits of ids, after the penalties. min_tokens: neither <|end|> nor a text of `stop`
    ends an answer sooner, unless nothing else may come. guide: what the answer must be (JSON, ...), unless max_tokens
    or a text of `stop` cuts it. seed: the same one gives the same answer, in whatever batch. n: so many answers;
    best_of: out of so many (0: n), those whose tokens have the highest mean log-probability, the best one first.
    logprobs: so many likeliest tokens are reported for each one produced. beam_size above 1: beam search, ranked by
    log-probability / ((5 + tokens) / 6) ** length_penalty (Wu et al. 2016, equation 14).
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    guide: Guide | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    best_of: int = 0
    logprobs: int = 0
    beam_size: int = 1
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        for name, least, most in (
            ("max_tokens", 1, math.inf), ("min_tokens", 0, math.inf), ("top_k", 0, math.inf),
            ("logprobs", 0, math.inf), ("n", 1, MOST), ("best_of", 0, MOST), ("beam_size", 1, MOST),
        ):  # fmt: skip
            _check(name, getattr(self, name), int, least, most)
        for name, least, most in (
            ("temperature", 0.0, math.inf), ("top_p", 1e-9, 1.0), ("min_p", 0.0, 1.0),
            ("repetition_penalty", 1e-9, math.inf), ("presence_penalty", -math.inf, math.inf),
            ("frequency_penalty", -math.inf, math.inf), ("length_penalty", 0.0, math.inf),
        ):  # fmt: skip
            _check(name, getattr(self, name), (int, float), least, most)
        if self.seed is not None:
            _check("seed", self.seed, int, -math.inf, math.inf)
        if not isinstance(self.logit_bias or {}, Mapping):
            raise ConfigError(
                f"sampling: logit_bias={self.logit_bias!r} must map ids of tokens to numbers.", "logit_bias"
            )
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}))
        for i, value in self.logit_bias.items():
            _check("logit_bias", i, int, 0, math.inf)
            _check("logit_bias", value, (int, float), -BIAS, BIAS)
        self._check_together()

    def _check_together(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise ConfigError(
                f"sampling: min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}; lower one, or raise "
                "the other.",
                "min_tokens",
            )
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigError(f"sampling: stop={self.stop!r} must hold texts that are not empty.", "stop")
        if 0 < self.best_of < self.n:
            raise ConfigError(
                f"sampling: best_of={self.best_of} holds no n={self.n} answers; raise it or lower n.", "best_of"
            )
        if self.guide is not None and not isinstance(self.guide, Guide):
            raise ConfigError(f"sampling: guide={self.guide!r} must be a Guide, such as Guide.json().", "guide")
        if self.beam_size > 1 and (reason := self._against_beams()):
            raise ConfigError(f"sampling: {reason}", "beam_size")

    def _against_beams(self) -> str | None:
        """What beam search cannot do of what is asked."""
        if self.guide is not None:
            return "beam search keeps to no guide; set beam_size=1, or leave the guide out."
        if self.samples > self.n:
            return "beam search ranks its answers itself; leave best_of out, or set beam_size=1."
        if self.n > self.beam_size:
            return f"n={self.n} answers need beam_size={self.n} or more, not {self.beam_size}."
        if self.temperature > 0:
            return "beam search draws nothing; set temperature=0, or beam_size=1 to sample."
        return "logprobs are not kept by beam search; set logprobs=0 or beam_size=1." if self.logprobs else None

    @property
    def samples(self) -> int:
        """How many answers are written."""
        return self.best_of or self.n

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


def _check(name: str, value: object, kind: type | tuple[type, ...], least: float, most: float) -> None:
    whole = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ConfigError(f"sampling: {name}={value!r} must be {whole}.", name)
    if not math.isfinite(value) or not least <= value <= most:  # type: ignore[arg-type, operator]
        bounds = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise ConfigError(f"sampling: {name}={value!r} must be {bounds if least > -math.inf else 'finite'}.", name)


def threshold(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """(B, 1): logits (B, V) below it are not to be drawn. top_k (B,) with 0 for all, then top_p (B,) of what is left.

    Tokens that tie with the last one kept are kept too.
    """
    size = logits.shape[1]
    limit = torch.where(top_k > 0, top_k, size).clamp(max=size)[:, None]  # (B, 1)
    unlimited, largest = bool((limit == size).any()), int(limit.masked_fill(limit == size, 0).max())
    count = min(size, max(RANKED, largest)) if unlimited else largest
    total = logits.logsumexp(-1, keepdim=True)
    while True:
        ranked = logits.topk(count, dim=-1).values  # (B, count)
        place = torch.arange(count, device=logits.device)
        ranked = ranked.masked_fill(place >= limit, -math.inf)
        kept = torch.where(limit < size, ranked.logsumexp(-1, keepdim=True), total)
        mass = (ranked - kept).exp().cumsum(-1)
        # Short of the wanted mass: the nucleus is larger than what was ranked.
        short = (mass[:, -1:] < top_p[:, None]) & (limit > count) & (top_p[:, None] < 1)
        if count == size or not bool(short.any()):
            break
        count = size
    before = mass - (ranked - kept).exp()
    last = ((before < top_p[:, None]) & (ranked > -math.inf)).sum(-1, keepdim=True).clamp(min=1) - 1
    edge = ranked.gather(1, last)
    return torch.where((top_p[:, None] >= 1) & (limit == size), -math.inf, edge)


def draw(mass: Tensor, uniform: Tensor) -> Tensor:
    """Ids (B,) drawn in proportion to mass (B, V) by numbers (B,) uniform in [0, 1): the inverse of the distribution.

    One number a row makes the draw independent of the batch that it happens in.
    """
    mass = mass.to(uniform.dtype).cumsum(-1)
    whole = mass[:, -1:]
    wanted = torch.minimum(uniform[:, None] * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(mass, wanted, right=True)[:, 0]


def speculate(mass: Tensor, odds: Tensor, drafts: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Which drafts (B,) are accepted, and by what (B, V) another is drawn where one is not.

    A draft drawn by `odds` q is accepted with probability min(1, p / q) of its own, p being `mass`; what comes in its
    place has the probabilities max(p - q, 0), made to sum to one. What comes out is distributed by p (Leviathan et al.
    2023, arXiv:2211.17192, theorem in appendix A.1; Chen et al. 2023, arXiv:2302.01318, theorem 1).
    """
    ours, theirs = (one.gather(1, drafts[:, None])[:, 0].to(uniform.dtype) for one in (mass, odds))
    rest = (mass - odds).clamp(min=0)
    # Where the two are equal but for rounding nothing is left, and nothing is refused.
    rest = torch.where((rest > 0).any(-1, keepdim=True), rest, mass)
    return uniform * theirs < ours, rest


class Place(NamedTuple):
    """Where a token is wanted: after a sequence's ids and its first so many drafts."""

    sequence: "Sequence"
    drafts: int = 0

    @property
    def produced(self) -> int:
        return self.sequence.produced + self.drafts

    @property
    def ids(self) -> list[int]:
        sequence = self.sequence
        return sequence.ids + sequence.drafts[: self.drafts] if self.drafts else sequence.ids


@dataclass
class Chosen:
    """One token a row, its log-probability by the network alone, and what else was asked for.

    top: of each row, the likeliest tokens with their log-probabilities (None where nobody asked); ties: whether the
    choice was between two logits that nearly tie, where lower precision makes that matter.
    """

    ids: list[int]
    logprobs: list[float]
    top: list[dict[int, float]] | None
    ties: list[bool] | None


_COLUMNS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


class Sampler:
    """Chooses for all rows at once; what each slot asked for lies in tables, so that no step builds them again."""

    def __init__(
        self, slots: int, vocabulary: int, length: int, ends: List[int], never: List[int], device: torch.device,
        grammars: Grammars,
    ):  # fmt: skip
        self.grammars = grammars
        self.slots, self.vocabulary, self.device = slots, vocabulary, device
        self.ends = torch.tensor(ends, dtype=torch.long, device=device)
        self.never = torch.tensor(never, dtype=torch.long, device=device)
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.options = torch.zeros(slots, len(_COLUMNS), dtype=torch.float32, device=device)
        # For each token three numbers: to draw it, to accept a draft of it, and to draw that.
        self.uniforms = torch.zeros(slots, 3, length + 1, dtype=self.dtype, device=device)
        self.counts: Tensor | None = None  # (slots, V): how often a token was produced; made when first needed
        self.prompted: Tensor | None = None  # (slots, V): whether a token is in the prompt
        self.bias: Tensor | None = None  # (slots, V)

    def admit(self, sequence: "Sequence") -> None:
        """Takes up what a sequence asks for; its slot is its own from now on."""
        slot, sampling = sequence.slot, sequence.sampling
        self.options[slot] = torch.tensor([float(getattr(sampling, name)) for name in _COLUMNS], dtype=torch.float32)
        if sampling.temperature > 0:
            seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
            generator = torch.Generator().manual_seed((seed + sequence.index * 0x9E3779B97F4A7C15) % 2**63)
            numbers = torch.rand(3, sequence.limit, generator=generator, dtype=torch.float64)
            self.uniforms[slot, :, : sequence.limit] = numbers.to(self.dtype)
        if sampling.penalised:
            if self.counts is None or self.prompted is None:
                self.counts = torch.zeros(self.slots, self.vocabulary, dtype=torch.float32, device=self.device)
                self.prompted = torch.zeros(self.slots, self.vocabulary, dtype=torch.bool, device=self.device)
            self.counts[slot] = 0
            self.prompted[slot] = False
            prompt, produced = sequence.ids[: sequence.prompt], sequence.ids[sequence.prompt :]
            self.prompted[slot, torch.tensor(prompt, device=self.device)] = True
            if produced:  # it ran before, and had to give way
                tokens = torch.tensor(produced, device=self.device)
                self.counts[slot].index_add_(0, tokens, torch.ones_like(tokens, dtype=self.counts.dtype))
        if sampling.logit_bias:
            if self.bias is None:
                self.bias = torch.zeros(self.slots, self.vocabulary, dtype=torch.float32, device=self.device)
            ids, values = (torch.tensor(part, device=self.device) for part in zip(*sampling.logit_bias.items()))
            self.bias[slot] = 0.0
            self.bias[slot, ids] = values.float()

    def reorder(self, slots: list[int], parents: list[int]) -> None:
        """Slot slots[i] goes on with what slot parents[i] produced (beam search)."""
        if self.counts is not None:
            self.counts[slots] = self.counts[parents]

    def count(self, produced: "Iterable[tuple[Sequence, int]]") -> None:
        """Notes the tokens that were produced, for penalties."""
        rows = [(s.slot, i) for s, i in produced if s.sampling.penalised]
        if rows and self.counts is not None:
            slots, tokens = torch.tensor(rows, device=self.device).T
            self.counts.index_put_((slots, tokens), torch.ones_like(slots, dtype=self.counts.dtype), accumulate=True)

    def adjust(self, logits: Tensor, places: "List[Place]") -> Tensor:
        """logits (B, V) without the ids that are never produced (of a picture, all but its codes), then penalties,
        biases, hooks, guides, min_tokens: a new tensor. The places in one sequence stand side by side, in order."""
        adjusted = logits.index_fill(1, self.never, -math.inf)
        sequences = [place.sequence for place in places]
        for drawing in {s.drawing for s in sequences if s.drawing is not None}:
            rows = [row for row, s in enumerate(sequences) if s.drawing == drawing]
            codes = slice(drawing.first, drawing.first + drawing.codes)
            adjusted[rows] = -math.inf
            adjusted[rows, codes] = logits[rows, codes]
        if rows := [row for row, s in enumerate(sequences) if s.sampling.penalised]:
            adjusted[rows] = self._penalise(adjusted[rows], [places[row] for row in rows])
        if rows := [row for row, s in enumerate(sequences) if s.sampling.logit_bias]:
            assert self.bias is not None
            adjusted[rows] += self.bias[[sequences[row].slot for row in rows]].to(adjusted.dtype)
        for row, place in enumerate(places):
            try:
                for hook in place.sequence.hooks:
                    adjusted[row] = hook(adjusted[row : row + 1], [place.ids], [place.sequence.prompt])[0]
            except Exception as error:  # of others' code; it ends this request alone
                place.sequence.error = error
        if rows := [row for row, s in enumerate(sequences) if s.constraint is not None]:
            adjusted[rows] = self._guide(adjusted[rows], [places[row] for row in rows])
        if rows := [row for row, place in enumerate(places) if place.produced < place.sequence.sampling.min_tokens]:
            on = adjusted[rows].index_fill(1, self.ends, -math.inf)
            adjusted[rows] = torch.where((on > -math.inf).any(-1, keepdim=True), on, adjusted[rows])
        return adjusted

    def _guide(self, scores: Tensor, places: "List[Place]") -> Tensor:
        """scores (B, V) of what the guide of each row allows; where that is nothing the sequence has failed."""
        last = {place.sequence: place.drafts for place in places}
        starts = dict(zip(last, itertools.accumulate((1 + drafts for drafts in last.values()), initial=0)))
        constraints = {s: s.constraint for s in last if s.constraint is not None}
        for sequence, constraint in constraints.items():
            constraint.follow(sequence.ids[sequence.prompt :])
        allowed = self.grammars.masks(list(constraints.values()), [s.drafts[:n] for s, n in last.items()])
        rows = [starts[place.sequence] + place.drafts for place in places]
        guided = scores.masked_fill(~allowed[rows], -math.inf)
        some = (guided > -math.inf).any(-1)
        for place, goes_on in zip(places, some.tolist()):
            constraint = constraints[place.sequence]
            if constraint.failed or not (goes_on or place.drafts):
                place.sequence.error = constraint.error()
        return torch.where(some[:, None], guided, scores.clamp(min=torch.finfo(scores.dtype).min))

    def _penalise(self, logits: Tensor, places: "List[Place]") -> Tensor:
        assert self.counts is not None
        assert self.prompted is not None
        slots = [place.sequence.slot for place in places]
        counts = self.counts[slots]
        if drafted := [(row, i) for row, (s, n) in enumerate(places) for i in s.drafts[:n]]:
            rows, tokens = torch.tensor(drafted, device=self.device).T
            counts.index_put_((rows, tokens), torch.ones_like(rows, dtype=counts.dtype), accumulate=True)
        repetition, presence, frequency = self.options[slots, 4:, None].unbind(1)  # (B, 1) each
        seen = self.prompted[slots] | (counts > 0)
        scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
        return torch.where(seen, scaled, logits) - presence * (counts > 0) - frequency * counts

    def choose(self, logits: Tensor, places: "List[Place]") -> Chosen:
        """The next token in each place from logits (B, V)."""
        precise = logits.dtype in (torch.float32, torch.float64)
        logits = logits if precise else logits.float()
        scores = self.adjust(logits, places)
        ids = scores.argmax(-1)
        drawn = [row for row, place in enumerate(places) if place.sequence.sampling.temperature > 0]
        if drawn:
            part = scores if len(drawn) == len(places) else scores[drawn]
            ids[drawn] = self._draw(self.weigh(part, some := [places[row] for row in drawn]), some)
        picked = logits.gather(1, ids[:, None])[:, 0]
        total = logits.logsumexp(-1)
        chosen = Chosen(ids.tolist(), (picked - total).tolist(), None, None)
        if count := max(place.sequence.sampling.logprobs for place in places):
            values, indices = logits.topk(min(count, logits.shape[1]), dim=-1)
            rows = zip(indices.tolist(), (values - total[:, None]).tolist())
            chosen.top = [dict(zip(names, numbers)) for names, numbers in rows]
        if not precise and len(drawn) < len(places):
            first, second = scores.topk(2, dim=-1).values.unbind(-1)
            chosen.ties = (first - second <= TIE * first.abs().clamp(min=1)).tolist()
        return chosen

    def weigh(self, scores: Tensor, places: "List[Place]") -> Tensor:
        """The probabilities (B, V) by which tokens are drawn, from adjusted scores (B, V)."""
        slots = torch.tensor([place.sequence.slot for place in places], device=self.device)
        temperature, top_k, top_p, min_p = self.options[slots, :4].to(scores.dtype).unbind(-1)
        scores = scores - scores.amax(-1, keepdim=True)  # a small temperature must not overflow
        scores = scores / temperature.clamp(min=1e-30)[:, None]
        dials = [place.sequence.sampling for place in places]
        if any(s.top_k or s.top_p < 1 for s in dials):
            scores = scores.masked_fill(scores < threshold(scores, top_k.long(), top_p), -math.inf)
        if any(s.min_p for s in dials):
            scores = scores.masked_fill(scores < min_p.log()[:, None], -math.inf)
        return scores.softmax(-1)

    def numbers(self, places: "List[Place]") -> Tensor:
        """(B, 3) uniform in [0, 1): for the token of each place, for accepting a draft of it, and for drawing that."""
        return self.uniforms[[place.sequence.slot for place in places], :, [place.produced for place in places]]

    def _draw(self, mass: Tensor, places: "List[Place]") -> Tensor:
        """Ids (B,) by probabilities (B, V); where a draft was drawn, that one if it is accepted, else another."""
        uniforms = self.numbers(places)
        rows = [row for row, (s, n) in enumerate(places) if s.odds is not None and n < len(s.drafts)]
        if not rows:
            return draw(mass, uniforms[:, 0])
        drafts = torch.tensor([places[row].sequence.drafts[places[row].drafts] for row in rows], device=self.device)
        odds = torch.stack([s.odds[n] for s, n in (places[row] for row in rows) if s.odds is not None])  # (R, V)
        accepted, rest = speculate(mass[rows], odds, drafts, uniforms[rows, 1])
        mass[rows] = rest
        ids = draw(mass, uniforms[:, 0])
        ids[rows] = torch.where(accepted, drafts, ids[rows])
        return ids
