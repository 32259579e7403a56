"""Position information, as parts given by value.

Learned and sinusoidal positions add to the embedding (Vaswani et al. 2017, section 3.5); rotary positions turn
queries and keys inside attention; ALiBi and T5's buckets add to the scores what a distance is worth to a head.
`Unpositioned` leaves order to the causal mask alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polytask.errors import ConfigError
from polytask.nn.part import Part


@dataclass(frozen=True)
class Unpositioned(Part):
    pass


@dataclass(frozen=True)
class Learned(Part):
    """One learned vector for each position up to the context length; positions beyond it do not exist.

    offset: rows of the table that come before that of position 0 and are never read (OPT has 2).
    """

    offset: int = 0


@dataclass(frozen=True)
class TextAndGrid(Part):
    """One learned vector for each place of a text; for each token of the picture behind it the sum of one for its row
    and one for its column (Ramesh et al. 2021, figure 10).

    The table holds those of the text, then of the rows, then of the columns.
    """

    text: int
    height: int
    width: int

    def __post_init__(self) -> None:
        self.expect_numbers("text", "height", "width", whole=True)

    @property
    def rows(self) -> int:
        return self.text + self.height + self.width

    def vectors(self, positions: Tensor, table: Tensor) -> Tensor:
        """(..., D) for positions (...) and the table (rows, D)."""
        place = positions - self.text
        first = torch.where(place < 0, positions, self.text + place // self.width)
        column = nn.functional.embedding(self.text + self.height + place % self.width, table)
        return nn.functional.embedding(first, table) + column * (place >= 0)[..., None]


@dataclass(frozen=True)
class Grid(Part):
    """One learned vector for the row and one for the column of every code of a picture, wherever it stands among texts;
    both are added to the code's embedding, beside whatever tells positions (Ramesh et al. 2021, figure 10).

    first: the id of code 0; no id below it is of a picture. A picture is height x width codes without another id among
    them.
    """

    first: int
    height: int
    width: int

    def __post_init__(self) -> None:
        self.expect_numbers("first", "height", "width", whole=True)

    def places(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Which code of its picture each id (B, T) is, from 0 on; -1 where it is none. positions (B, T) are 0 where a
        document begins."""
        order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        codes = ids >= self.first
        other = torch.where(codes, -1, order)  # the last id before that is none of this picture
        other = torch.where(codes & (positions == 0), order - 1, other).cummax(1).values
        return torch.where(codes, (order - other - 1) % (self.height * self.width), -1)

    def places_from(self, ids: Sequence[int], start: int) -> list[int]:
        """The same of the ids from `start` on of one document, whose ids are given from its beginning."""
        found, place = [], start
        while place and ids[place - 1] >= self.first:
            place -= 1
        run = start - place
        for i in ids[start:]:
            found.append(run % (self.height * self.width) if i >= self.first else -1)
            run = run + 1 if i >= self.first else 0
        return found


@dataclass(frozen=True)
class Sinusoidal(Part):
    """Fixed sines and cosines with wavelengths from 2 pi to 10000 x 2 pi (Vaswani et al. 2017, section 3.5).

    The paper interleaves them (sine on even channels); Marian, fairseq and tensor2tensor put all sines first ("half").
    """

    layout: Literal["interleaved", "half"] = "interleaved"

    def table(self, positions: Tensor, dim: int) -> Tensor:
        """(..., D) float32 for integer positions (...)."""
        channel = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64)
        angle = positions[..., None].double() * torch.exp(channel * (-math.log(10_000.0) / dim))  # (..., D/2)
        parts = [angle.sin(), angle.cos()]
        return (torch.stack(parts, -1).flatten(-2) if self.layout == "interleaved" else torch.cat(parts, -1)).float()


@dataclass(frozen=True)
class Rotary(Part):
    """Rotates query and key pairs by an angle proportional to position (Su et al. 2021, equation 34)."""

    theta: float = 10_000.0
    layout: Literal["half", "interleaved"] = (
        "half"  # Llama and NeoX pair channel i with i + K/2; GPT-J pairs neighbours
    )
    fraction: float = 1.0  # of the channels that turn, the first ones (GPT-J and NeoX leave the others as they are)
    scaling: "Scaling | None" = None

    def __post_init__(self) -> None:
        self.expect_numbers("theta")
        self.expect_numbers("fraction", zero=True)
        if self.fraction > 1:
            raise ConfigError(f"Rotary: fraction={self.fraction} must be at most 1")

    def angles(self, positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of each channel, (B, 1, T, R) in float32, for integer positions (B, T); R turn."""
        frequencies, size = self.frequencies(head_dim, positions.device)
        angle = positions[:, None, :, None].float() * frequencies  # (B, 1, T, R/2)
        cos, sin = angle.cos() * size, angle.sin() * size
        return self._pair(cos, cos), self._pair(-sin, sin)

    def frequencies(self, head_dim: int, device: torch.device | None = None) -> tuple[Tensor, float]:
        """The angle of each pair at position 1, (R/2,) in float32, and what cosines and sines are multiplied by."""
        turned = self.turned(head_dim)
        exponent = torch.arange(0, turned, 2, device=device, dtype=torch.int64).float() / turned
        frequencies = 1.0 / self.theta**exponent
        return (frequencies, 1.0) if self.scaling is None else self.scaling.scale(frequencies, self.theta)

    def turned(self, head_dim: int) -> int:
        return 2 * int(round(head_dim * self.fraction, 6) / 2)  # 30 of 44 are 30

    def rotate(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, H, T, K) turned by the angles of its positions."""
        cos, sin = (part.to(x.dtype) for part in angles)
        if (turned := cos.shape[-1]) == x.shape[-1]:
            return _Rotate.apply(x, cos, sin, self)  # type: ignore[no-any-return]
        rotated, rest = x.split((turned, x.shape[-1] - turned), dim=-1)
        return torch.cat((_Rotate.apply(rotated, cos, sin, self), rest), dim=-1)  # type: ignore[arg-type]

    def _pair(self, a: Tensor, b: Tensor) -> Tensor:
        """One tensor whose pairs of channels have their first from a and their second from b."""
        return torch.cat((a, b), dim=-1) if self.layout == "half" else torch.stack((a, b), dim=-1).flatten(-2)

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1) if self.layout == "half" else (x[..., 0::2], x[..., 1::2])
        return torch.addcmul(x * cos, self._pair(b, a), sin)


@dataclass(frozen=True, eq=False)
class Turn:
    """The rotation of the tokens of a batch: what all layers share."""

    rotary: Rotary
    angles: tuple[Tensor, Tensor]

    def __call__(self, x: Tensor) -> Tensor:  # (B, H, T, K)
        return self.rotary.rotate(x, self.angles)


class _Rotate(torch.autograd.Function):
    """Its way back is the turn by the opposite angle: half of the passes over memory of the composition's."""

    @staticmethod
    def forward(ctx, x, cos, sin, part):
        ctx.part = part
        ctx.save_for_backward(cos, sin)
        return part.turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        return ctx.part.turn(grad, cos, -sin), None, None, None


@dataclass(frozen=True)
class Scaling(Part):
    """A rule by which a network reads longer texts than the `original` context that it was pre-trained with."""

    factor: float
    original: int = 0

    def __post_init__(self) -> None:
        self.expect_numbers("factor")
        self.expect_numbers("original", whole=True, zero=True)

    def scale(self, frequencies: Tensor, theta: float) -> tuple[Tensor, float]:
        """The scaled frequencies (R/2,), and what cosines and sines are multiplied by."""
        raise NotImplementedError


@dataclass(frozen=True)
class LinearScaling(Scaling):
    """Positions are divided by the factor (Chen et al. 2023, section 2.3)."""

    def scale(self, frequencies: Tensor, theta: float) -> tuple[Tensor, float]:
        return frequencies / self.factor, 1.0


@dataclass(frozen=True)
class Llama3Scaling(Scaling):
    """Long wavelengths are divided by the factor, short ones stay, those between are mixed (Llama 3.1's code)."""

    low: float = 1.0
    high: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect_numbers("low", "high")

    def scale(self, frequencies: Tensor, theta: float) -> tuple[Tensor, float]:
        wavelengths = 2 * math.pi / frequencies
        smooth = (self.original / wavelengths - self.low) / (self.high - self.low)
        mixed = (1 - smooth) * frequencies / self.factor + smooth * frequencies
        scaled = torch.where(wavelengths > self.original / self.low, frequencies / self.factor, frequencies)
        between = (wavelengths <= self.original / self.low) & (wavelengths >= self.original / self.high)
        return torch.where(between, mixed, scaled), 1.0


@dataclass(frozen=True)
class Yarn(Scaling):
    """Channels that turn often keep their frequency, slow ones are divided by the factor, with a ramp between; scores
    grow by the square of `size` (Peng et al. 2023, sections 3.2 to 3.4). size None: 0.1 ln(factor) + 1."""

    fast: float = 32.0
    slow: float = 1.0
    size: float | None = None
    truncate: bool = True  # the ramp's ends to whole channels, as the authors' code has it

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expect_numbers("fast", "slow", "size")

    def scale(self, frequencies: Tensor, theta: float) -> tuple[Tensor, float]:
        channels = len(frequencies)
        low, high = (self._channel(turns, 2 * channels, theta) for turns in (self.fast, self.slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * channels - 1)
        ramp = (torch.arange(channels, device=frequencies.device).float() - low) / (max(high - low, 0.001))
        kept = 1 - ramp.clamp(0, 1)
        size = 0.1 * math.log(self.factor) + 1.0 if self.size is None else self.size
        return frequencies / self.factor * (1 - kept) + frequencies * kept, size if self.factor > 1 else 1.0

    def _channel(self, turns: float, width: int, theta: float) -> float:
        """The pair of channels that turns so often within the original context."""
        return width * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True)
class Alibi(Part):
    """A head's scores fall with distance, by a slope of its own (Press et al. 2022, section 3).

    scaled: the penalty is divided by sqrt(K) with the scores, as Falcon's code has it, which also rounds slope times
    position to bfloat16.
    """

    scaled: bool = False

    def slopes(self, heads: int, device: torch.device | str | None = None) -> Tensor:
        """(H,) float64. For a number of heads that is no power of two, those of the next lower power, then every other
        one of the next higher power (BLOOM's code)."""
        power = 1 << (heads.bit_length() - 1)
        place = torch.arange(power, dtype=torch.float64, device=device)
        first, rest = (place + 1) * (-8 / power), (2 * place[: heads - power] + 1) * (-4 / power)
        return torch.cat([first, rest]).exp2()

    def scores(self, queries: Tensor, keys: Tensor, heads: int, head_dim: int) -> Tensor:
        """(B, H, T, S) float64: what is added to the scores of queries and keys at positions (B, T) and (B, S)."""
        slopes = self.slopes(heads, queries.device)[:, None, None]
        if not self.scaled:
            return slopes * (keys[:, None, None, :] - queries[:, None, :, None])
        # A query's own position would shift all of its scores alike, and softmax does not see that.
        rounded = (slopes.bfloat16() * keys[:, None, None, :].bfloat16()).double() * head_dim**-0.5
        return rounded.expand(-1, -1, queries.shape[1], -1)


@dataclass(frozen=True)
class RelativeBuckets(Part):
    """A learned number for each head and bucket of distances is added to the scores (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the others grow to `furthest`. shared: one table for all layers of a
    stack (T5), else each layer has its own.
    """

    buckets: int = 32
    furthest: int = 128
    shared: bool = True

    def build(self, heads: int, causal: bool) -> "RelativeScores":
        return RelativeScores(self, heads, causal)

    def bucket(self, distance: Tensor, causal: bool) -> Tensor:
        """The bucket of each distance, key position less query position. Causal: keys after the query share bucket 0;
        else half of the buckets are for them."""
        buckets = self.buckets if causal else self.buckets // 2
        later = torch.zeros_like(distance) if causal else (distance > 0) * buckets
        distance = (-distance).clamp(min=0) if causal else distance.abs()
        exact = buckets // 2
        far = (distance.clamp(min=1).float() / exact).log() / math.log(self.furthest / exact) * (buckets - exact)
        return later + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=buckets - 1))


class RelativeScores(nn.Module):
    """The table of RelativeBuckets, (buckets, H)."""

    def __init__(self, part: RelativeBuckets, heads: int, causal: bool):
        super().__init__()
        self.part, self.causal = part, causal
        self.weight = nn.Parameter(torch.empty(part.buckets, heads))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, H, T, S): what is added to the scores of queries and keys at positions (B, T) and (B, S)."""
        distance = keys[:, None, :] - queries[:, :, None]
        return nn.functional.embedding(self.part.bucket(distance, self.causal), self.weight).permute(0, 3, 1, 2)


class GridEmbedding(nn.Module):
    """What is added to the embeddings of a picture's codes; the table holds rows and then columns."""

    def __init__(self, part: Grid, dim: int):
        super().__init__()
        self.part = part
        self.weight = nn.Parameter(torch.empty(part.height + part.width, dim))

    def forward(self, places: Tensor) -> Tensor:
        """(B, T, D) for places (B, T), 0 where they are -1."""
        part, known = self.part, places.clamp(min=0)
        row = nn.functional.embedding(known // part.width, self.weight)
        column = nn.functional.embedding(part.height + known % part.width, self.weight)
        return (row + column) * (places >= 0)[..., None]


class PositionEmbedding(nn.Module):
    """What is added to token embeddings: the learned table, or sinusoids kept for the context length."""

    def __init__(self, part: Part, context_length: int, dim: int):
        super().__init__()
        self.part = part
        if isinstance(part, Learned):
            self.weight = nn.Parameter(torch.empty(context_length + part.offset, dim))
        elif isinstance(part, TextAndGrid):
            self.weight = nn.Parameter(torch.empty(part.rows, dim))
        elif isinstance(part, Sinusoidal):
            self.register_buffer("weight", part.table(torch.arange(context_length), dim), persistent=False)

    def fill_buffers(self) -> None:
        if isinstance(self.part, Sinusoidal):
            length, dim = self.weight.shape
            device = "cpu" if self.weight.is_meta else self.weight.device
            self.weight = self.part.table(torch.arange(length, device=device), dim).to(self.weight.dtype)

    def forward(self, positions: Tensor) -> Tensor:  # (B, T) -> (B, T, D)
        if isinstance(self.part, TextAndGrid):
            return self.part.vectors(positions, self.weight)
        offset = self.part.offset if isinstance(self.part, Learned) else 0
        return nn.functional.embedding(positions + offset if offset else positions, self.weight)
