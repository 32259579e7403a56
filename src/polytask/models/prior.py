"""DALL-E 2's diffusion prior: from a text to the CLIP embedding of a picture that it may describe (Ramesh et al. 2022,
section 2.2), in the form of Karlo and diffusers' PriorTransformer.

A causal transformer reads the states of the text, the embedding of the text, the step, the noised embedding of the
picture and a learned query, at whose place it says what the clean embedding is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.diffusion.schedule import Schedule
from polytask.errors import ConfigError
from polytask.models.vit import draw_blocks
from polytask.nn.attention import Attention
from polytask.nn.block import Block
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.part import Part
from polytask.nn.position import Unpositioned

OTHERS = 4  # tokens beside the text's: its embedding, the step, the noised embedding, the query
SCALE = 17.2  # by which unit vectors of width 1024 get the variance of pixels in [-1, 1] (code of the paper)
WIDTH = 1024
SCHEDULE = Schedule("cosine", 1000)  # of the noise (section 2.2 and appendix C)


def unit_scale(embed: int) -> float:
    """What unit vectors of that width are multiplied by, so that a channel has the variance that 17.2 gives to 1024."""
    return SCALE * (embed / WIDTH) ** 0.5


@dataclass(frozen=True)
class PriorConfig(Part):
    """embed: of the CLIP embeddings. text_dim: of the states of the text, `text_length` of them. dim: of its own
    states.
    """

    embed: int
    text_dim: int
    text_length: int
    layers: int
    dim: int
    attention: Attention
    feedforward: MLP
    norm: LayerNorm = LayerNorm()

    def __post_init__(self) -> None:
        self.expect_numbers("embed", "text_dim", "text_length", "layers", "dim", whole=True)
        self.attention.sizes(self.dim)

    def build(self) -> "Prior":
        return Prior(self)


class Prior(nn.Module):
    """Noised embeddings to clean ones, both as `scaled` gives them.

    mean, deviation (E,): of pictures' embeddings. As they are at first, `scaled` multiplies by `unit_scale`; Karlo has
    statistics of its data there.
    """

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = c = config
        self.text_input = nn.Linear(c.text_dim, c.dim)
        self.embedding_input = nn.Linear(c.embed, c.dim)
        self.step_input = nn.Sequential(nn.Linear(c.dim, c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim))
        self.noised_input = nn.Linear(c.embed, c.dim)
        self.query = nn.Parameter(torch.empty(c.dim))
        self.position = nn.Parameter(torch.empty(c.text_length + OTHERS, c.dim))
        self.blocks = nn.ModuleList(
            Block(
                c.dim, c.attention, c.feedforward, c.norm, Unpositioned(), layer,
                placement="pre", dropout=0.0, cross=False,
            )
            for layer in range(c.layers)
        )  # fmt: skip
        self.norm = c.norm.build(c.dim)
        self.output = nn.Linear(c.dim, c.embed)
        self.register_buffer("mean", torch.zeros(c.embed))
        self.register_buffer("deviation", torch.full((c.embed,), 1 / unit_scale(c.embed)))
        self.mean: Tensor
        self.deviation: Tensor

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> "Prior":
        """Draws fresh weights: N(0, 0.02), blocks as CLIP's. Returns self."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.zeros_(parameter)
        nn.init.normal_(self.query, std=0.02, generator=generator)
        draw_blocks(self.blocks, self.config.dim, generator)
        self.norm.reset_parameters()  # type: ignore[operator]
        return self

    def scaled(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, E) as diffusion sees them."""
        return (embedding - self.mean) / self.deviation

    def unscaled(self, x: Tensor) -> Tensor:
        """Inverse of `scaled`."""
        return x * self.deviation + self.mean

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, embedding: Tensor, mask: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """The clean embedding (B, E), scaled, for a noised one x (B, E) at steps t (B,), the text's states (B, L, D)
        and embedding (B, E); mask (B, L) is False where a text has no token. What is behind a text has places of its
        own, so that padding may be left out.

        Raises ConfigError where L is above the text's length.
        """
        length, most = text.shape[1], self.config.text_length
        if length > most:
            raise ConfigError(f"prior: {length} states of a text were given, and it reads {most}; cut them.")
        parts = [self.embedding_input(embedding), self.step_input(self.steps(t).to(x.dtype)), self.noised_input(x)]
        others = torch.stack([*parts, self.query.to(x.dtype).expand(len(x), -1)], dim=1)
        states = torch.cat([self.text_input(text) + self.position[:length], others + self.position[most:]], dim=1)
        places = torch.arange(states.shape[1], device=x.device).expand(len(x), -1)
        real = None if mask is None else torch.cat([mask, mask.new_ones(len(x), OTHERS)], dim=1)
        context = Context(places, None if real is None else real.long())
        for block in self.blocks:
            states = block(states, context)
        return self.output(self.norm(states[:, -1]))

    def steps(self, t: Tensor) -> Tensor:
        """Cosines, then sines of the steps (B,), with wavelengths from 2 pi to 10000 x 2 pi: (B, D) float32."""
        half = self.config.dim // 2
        frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000.0) / half))
        angles = t.float()[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (B, E, 1, 1) at steps (B,): what is clean of it


@torch.inference_mode()
def draw_embeddings(
    prior: Prior, text: Tensor, embedding: Tensor, mask: Tensor | None, draw: Callable[[Denoiser, Tensor], Tensor], *,
    guidance: float = 1.0, candidates: int = 2, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Embeddings (B, E) of pictures for texts of states (B, L, D) and unit embeddings (B, E): of several candidates the
    one whose product with the text's is the largest (section 2.2).

    draw: goes from noise (B, E, 1, 1) to what is clean by a denoiser that predicts x0. guidance: weight of the text
    over none (1: no guidance).
    """
    if mask is not None:  # what is padding in every text is not looked at
        longest = 1 + int(mask.any(0).nonzero().max()) if mask.any() else 0
        text, mask = text[:, :longest], mask[:, :longest]
    many = [None if x is None else x.repeat_interleave(candidates, 0) for x in (text, embedding, mask)]
    states, directions, real = many
    assert states is not None and directions is not None  # noqa: PT018
    silent = states[:, :0]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        said = prior(x[..., 0, 0], t, states, directions, real)
        if guidance != 1.0:
            free = prior(x[..., 0, 0], t, silent, torch.zeros_like(directions))
            said = torch.lerp(free, said, guidance)
        return said[..., None, None]

    shape = (len(states), prior.config.embed, 1, 1)
    noise = torch.randn(shape, generator=generator, dtype=states.dtype, device=states.device)
    drawn = prior.unscaled(draw(denoise, noise)[..., 0, 0]).unflatten(0, (-1, candidates))
    return best(drawn, embedding)


def best(drawn: Tensor, embedding: Tensor) -> Tensor:
    """Of candidates (B, N, E) those with the largest product with embeddings (B, E)."""
    chosen = (drawn @ embedding[..., None])[..., 0].argmax(dim=1)
    return drawn[torch.arange(len(drawn), device=drawn.device), chosen]
