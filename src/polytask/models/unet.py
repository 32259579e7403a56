"""U-Nets that predict noise: the form of improved DDPM (Dhariwal and Nichol 2021) and Imagen's Efficient U-Net."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from polytask.errors import ConfigError
from polytask.models.built import flops
from polytask.nn.convolution import ActivatedNorm, Convolution, NumberEmbedding, Resample, Resampling, ResidualBlock
from polytask.nn.part import Part
from polytask.nn.picture_attention import PictureAttention, TextPooling, TextStates

Form = Literal["improved", "efficient"]


@dataclass(frozen=True)
class UNetConfig(Part):
    """pixels: of a side; the network runs at others too, `attention` then being at the same levels.

    channels: of the first level; multipliers: of each level's; blocks: residual blocks of a level, one number or one
    for each. attention: sides of the maps at which places attend to each other; text_attention: at which they attend to
    the text, None meaning the same ones, where both share one attention. head_dim, or `heads` where all levels have as
    many; attention_width: of all heads together, in channels.

    form: "improved" keeps the input of every residual block for the way up and resamples in blocks of their own;
    "efficient" strides before a level's blocks and enlarges after them, keeps each level's end alone, and its first
    level strides too (Saharia et al. 2022, appendix B). skip_scale: of what is kept.

    text: width of text states, 0 for none; text_pooling: they pass a LayerNorm, and what attention pools of them is
    added to the embedding of the step (Imagen). pooled: width of a vector of the whole condition, such as CLIP's, 0 for
    none; pooled_tokens: as how many further text states it is seen as well (unCLIP: 4). low: a picture of fewer pixels
    is seen, enlarged, beside the noise; augmentation: so is the level of its noise. learned_variance: the output has
    three more channels. self_conditioning: the last estimate is seen too (Chen et al. 2022, "Analog bits").
    """

    pixels: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int | tuple[int, ...]
    attention: tuple[int, ...] = ()
    text_attention: tuple[int, ...] | None = None
    head_dim: int = 64
    heads: int | None = None
    attention_width: int = 1
    middle_attention: bool = True
    form: Form = "improved"
    residual_resampling: bool = True
    skip_scale: float = 1.0
    text: int = 0
    text_pooling: bool = False
    pooled: int = 0
    pooled_tokens: int = 0
    low: bool = False
    augmentation: bool = False
    learned_variance: bool = False
    self_conditioning: bool = False
    groups: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.expect_numbers("pixels", "channels", "head_dim", "heads", "attention_width", "groups", whole=True)
        self.expect_numbers("text", "pooled", "pooled_tokens", whole=True, zero=True)
        if self.form not in ("improved", "efficient"):
            raise ConfigError(f"UNetConfig: form={self.form!r} must be one of: improved, efficient")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"UNetConfig: dropout={self.dropout} must be at least 0 and below 1")
        if isinstance(self.blocks, tuple) and len(self.blocks) != len(self.multipliers):
            raise ConfigError(f"UNetConfig: {len(self.blocks)} numbers of blocks for {len(self.multipliers)} levels")
        if self.pixels % self.stride:
            raise ConfigError(f"UNetConfig: pixels={self.pixels} must be a multiple of {self.stride}, one half a level")
        if any(width % self.groups for width in self.widths):
            raise ConfigError(f"UNetConfig: groups={self.groups} must divide the channels of every level")
        for level, width in enumerate(self.widths):
            inner, heads = self.heads_of(level)
            last = self.middle_attention and level == len(self.widths) - 1
            if inner % heads and (any(self.attends(level)) or last):
                raise ConfigError(
                    f"UNetConfig: {heads} heads cannot share the {inner} channels of a level of {width}; choose heads, "
                    "or a head_dim, that divide them."
                )
        reached = [self.pixels // factor for factor in self.factors]
        for side in (*self.attention, *(self.text_attention or ())):
            if side not in reached:
                raise ConfigError(f"UNetConfig: attention at {side}, but the maps have sides of {reached}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def factors(self) -> tuple[int, ...]:
        """By how much the maps of each level are smaller than the picture."""
        first = 2 if self.form == "efficient" else 1
        return tuple(first * 2**level for level in range(len(self.multipliers)))

    @property
    def stride(self) -> int:
        """What the sides of a picture must be a multiple of."""
        return self.factors[-1]

    def blocks_of(self, level: int) -> int:
        return self.blocks[level] if isinstance(self.blocks, tuple) else self.blocks

    def heads_of(self, level: int) -> tuple[int, int]:
        """Channels of all heads of a level together, and how many heads."""
        inner = self.attention_width * self.widths[level]
        return inner, self.heads or max(1, inner // self.head_dim)

    def attends(self, level: int) -> tuple[bool, bool]:
        """Whether the places of a level attend to each other, and to the text."""
        side = self.pixels // self.factors[level]
        read = self.attention if self.text_attention is None else self.text_attention
        return side in self.attention, bool(self.text) and side in read

    def build(self) -> "UNet":
        return UNet(self)


class Stage(nn.Module):
    """A block and perhaps attention. keeps: what comes out is seen again on the way up; takes: so many channels of
    what was kept come in beside."""

    def __init__(
        self, block: nn.Module, attention: nn.Module | None = None, *, keeps: bool = False, takes: bool = False
    ):
        super().__init__()
        self.block, self.attention, self.keeps, self.takes = block, attention, keeps, takes

    def forward(self, x: Tensor, embedding: Tensor, text: TextStates | None) -> Tensor:
        x = self.block(x, embedding)
        return x if self.attention is None else self.attention(x, text)


class UNet(nn.Module):
    """Noisy pictures and their steps to what is predicted of them."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config, c, width = config, config, 4 * config.channels
        self.time = NumberEmbedding(c.channels, width)
        self.level = NumberEmbedding(c.channels, width) if c.augmentation else None
        self.pooled = nn.Linear(c.pooled, width) if c.pooled else None
        self.pooled_tokens = nn.Linear(c.pooled, c.pooled_tokens * c.text) if c.pooled_tokens else None
        self.text_norm = nn.LayerNorm(c.text) if c.text_pooling else None
        self.text_pooling = TextPooling(c.text, width, max(1, c.text // 64)) if c.text_pooling else None
        inputs = 3 * (1 + c.low + c.self_conditioning)
        self.first = Convolution(inputs, c.widths[0])
        kept = [] if c.form == "efficient" else [c.widths[0]]
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        (self._efficient if c.form == "efficient" else self._improved)(kept)
        self.norm = ActivatedNorm(c.groups, c.widths[0])
        self.last = Convolution(c.widths[0], 6 if c.learned_variance else 3)

    def _block(self, inputs: int, outputs: int, resampling: Resampling | None = None) -> ResidualBlock:
        c = self.config
        return ResidualBlock(inputs, outputs, 4 * c.channels, c.groups, c.dropout, resampling)

    def _attention(self, level: int, always: bool = False) -> PictureAttention | None:
        c, (itself, text) = self.config, self.config.attends(level)
        itself, text = itself or always, text or (always and bool(c.text))
        if not (itself or text):
            return None
        inner, heads = c.heads_of(level)
        return PictureAttention(c.widths[level], heads, inner, c.groups, c.text if text else 0, alone=not itself)

    def _resample(self, inputs: int, outputs: int, resampling: Resampling) -> nn.Module:
        if self.config.residual_resampling and self.config.form == "improved":
            return self._block(inputs, outputs, resampling)
        return Resample(inputs, outputs, resampling)

    def _improved(self, kept: list[int]) -> None:
        c, x = self.config, self.config.widths[0]
        for level, width in enumerate(c.widths):
            for _ in range(c.blocks_of(level)):
                self.down.append(Stage(self._block(x, width), self._attention(level), keeps=True))
                kept.append(x := width)
            if level < len(c.widths) - 1:
                self.down.append(Stage(self._resample(x, x, "down"), keeps=True))
                kept.append(x)
        deepest = len(c.widths) - 1
        attention = self._attention(deepest, always=True) if c.middle_attention else None
        self.middle.extend([Stage(self._block(x, x), attention), Stage(self._block(x, x))])
        for level, width in reversed(list(enumerate(c.widths))):
            for _ in range(c.blocks_of(level) + 1):
                self.up.append(Stage(self._block(x + kept.pop(), width), self._attention(level), takes=True))
                x = width
            if level:
                self.up.append(Stage(self._resample(x, x, "up")))

    def _efficient(self, kept: list[int]) -> None:
        c, x = self.config, self.config.widths[0]
        for level, width in enumerate(c.widths):
            self.down.append(Stage(self._resample(x, width, "down")))
            last = c.blocks_of(level) - 1
            for block in range(last + 1):
                attention = self._attention(level) if block == last else None
                keeps = block == last and level < len(c.widths) - 1
                self.down.append(Stage(self._block(width, width), attention, keeps=keeps))
            x = width
            kept.append(width)
        for level, width in reversed(list(enumerate(c.widths))):
            x += kept[level] if level < len(c.widths) - 1 else 0
            last = c.blocks_of(level) - 1
            for block in range(last + 1):
                attention = self._attention(level) if block == last else None
                takes = block == 0 and level < len(c.widths) - 1
                self.up.append(Stage(self._block(x, width), attention, takes=takes))
                x = width
            self.up.append(Stage(self._resample(width, width, "up")))

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None,
        pooled: Tensor | None = None, low: Tensor | None = None, augmentation: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What is predicted, (B, 3 or 6, H, W), of pictures x (B, 3, H, W) at steps t (B,).

        text (B, L, D) with text_mask (B, L) bool, pooled (B, P), low (B, 3, h, w) with augmentation (B,) from 0 to 1,
        and guess (B, 3, H, W), the last estimate, as the configuration has them; a condition that is not given is not
        seen. Raises ConfigError where a picture's side does not divide.
        """
        if x.shape[-1] % self.config.stride or x.shape[-2] % self.config.stride:
            raise ConfigError(
                f"Pictures of {x.shape[-1]} x {x.shape[-2]} pixels: this U-Net draws multiples of {self.config.stride}."
            )
        embedding, states = self._conditions(t, text, text_mask, pooled, augmentation)
        x = self.first(self._seen(x, low, guess))
        kept = [x] if self.config.form == "improved" else []
        for stage in self.down:
            x = stage(x, embedding, states)
            if stage.keeps:
                kept.append(x)
        for stage in self.middle:
            x = stage(x, embedding, states)
        for stage in self.up:
            if stage.takes:
                skip = kept.pop()
                x = torch.cat([x, skip if self.config.skip_scale == 1.0 else skip * self.config.skip_scale], dim=1)
            x = stage(x, embedding, states)
        return self.last(self.norm(x))  # type: ignore[no-any-return]

    def _seen(self, x: Tensor, low: Tensor | None, guess: Tensor | None) -> Tensor:
        parts, c = [x], self.config
        if c.low:
            parts.append(torch.zeros_like(x) if low is None else enlarged(low, x.shape[-2:]).to(x.dtype))
        if c.self_conditioning:
            parts.append(torch.zeros_like(x) if guess is None else guess.to(x.dtype))
        seen = torch.cat(parts, dim=1) if len(parts) > 1 else x
        return seen.to(self.first.weight.dtype).contiguous(memory_format=torch.channels_last)

    def _conditions(
        self, t: Tensor, text: Tensor | None, mask: Tensor | None, pooled: Tensor | None, augmentation: Tensor | None
    ) -> tuple[Tensor, TextStates | None]:
        """The embedding (B, 4 C), activated, and the text's states."""
        embedding, kind = self.time(t), self.first.weight.dtype
        if self.level is not None:
            level = torch.zeros_like(t, dtype=torch.float32) if augmentation is None else augmentation
            embedding = embedding + self.level(1000 * level)  # on the scale of steps
        states = None
        if text is not None and self.config.text:
            text = text.to(kind)
            states = TextStates(text if self.text_norm is None else self.text_norm(text), mask)
            if self.text_pooling is not None:
                embedding = embedding + self.text_pooling(states)
        if self.pooled is not None and pooled is not None:
            embedding = embedding + self.pooled(pooled.to(kind))
            if self.pooled_tokens is not None and states is not None:
                states = self._with_tokens(states, self.pooled_tokens(pooled.to(kind)))
        return F.silu(embedding), states

    def _with_tokens(self, text: TextStates, tokens: Tensor) -> TextStates:
        count = self.config.pooled_tokens
        mask = None if text.mask is None else F.pad(text.mask, (0, count), value=True)
        return TextStates(torch.cat([text.states, tokens.unflatten(-1, (count, -1))], dim=1), mask)

    def initialize(self, seed: int = 0) -> "UNet":
        """Draws fresh weights from `seed`: uniform with variance 2 / (inputs + outputs) (Ho et al. 2020's code), and 0
        where a branch ends, so that every block begins as its shortcut. Returns self."""
        generator = torch.Generator().manual_seed(seed)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                _draw(module, name.endswith((".outer", ".attention.output")) or name == "last", generator)
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()
        return self


@torch.no_grad()
def _draw(module: nn.Linear | nn.Conv2d, zero: bool, generator: Generator) -> None:
    area = math.prod(module.weight.shape[2:])
    bound = math.sqrt(6 / (area * sum(module.weight.shape[:2])))
    if zero:
        nn.init.zeros_(module.weight)
    else:
        nn.init.uniform_(module.weight, -bound, bound, generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def enlarged(low: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """A picture at more pixels, bilinear (Dhariwal and Nichol 2021's code)."""
    return F.interpolate(low, size=tuple(size), mode="bilinear", align_corners=False)


def step_flops(config: UNetConfig) -> int:
    """FLOPs of one pass over one picture at the size of the configuration, with 128 states of text where it reads."""
    given = {"x": torch.empty(1, 3, config.pixels, config.pixels), "t": torch.empty(1)}
    if config.text:
        given["text"] = torch.empty(1, 128, config.text)
    return flops(config, **given)
