"""A U-Net with what reads its condition: a text, a label, or a vector from outside such as CLIP's."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.diffusion.guidance import classifier_free
from polytask.diffusion.process import Prediction, check_prediction
from polytask.diffusion.schedule import Schedule
from polytask.errors import ConfigError
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.models.unet import UNet, UNetConfig
from polytask.nn.cache import Context
from polytask.nn.part import Part


@dataclass(frozen=True)
class DiffusionConfig(Part):
    """unet: the network that draws. text: what reads captions, a stack without order whose width is the U-Net's `text`;
    of an encoder-decoder (T5) the encoder. frozen_text: it is not trained, as Imagen's. classes: of labels, 0 for none;
    their vectors are as wide as the U-Net's `pooled`. schedule, steps: of the noise in training. prediction: epsilon,
    x0 or v. low_pixels: of the smaller picture that is enlarged, where the U-Net sees one; as many as it draws where it
    sees the picture that an instruction changes.
    """

    unet: UNetConfig
    text: TransformerConfig | None = None
    frozen_text: bool = False
    classes: int = 0
    schedule: str = "cosine"
    steps: int = 1000
    prediction: Prediction = "epsilon"
    low_pixels: int = 0

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        Schedule(self.schedule, self.steps)
        self.expect_numbers("classes", "low_pixels", whole=True, zero=True)
        if (self.text.dim if self.text else self.unet.text) != self.unet.text:
            raise ConfigError(
                f"diffusion: text of width {self.text.dim if self.text else 0}, but unet.text={self.unet.text}"
            )
        if self.classes and not self.unet.pooled:
            raise ConfigError("diffusion: classes need a width in unet.pooled, such as 4 unet.channels")
        if self.unet.low != bool(self.low_pixels):
            raise ConfigError("diffusion: low_pixels says how large the picture is that a U-Net with low=true sees")
        if self.low_pixels > self.unet.pixels or (self.changes and self.unet.augmentation):
            raise ConfigError(
                f"model.pixels={self.unet.pixels} must be more than the {self.low_pixels} of the picture that is "
                "enlarged."
            )

    @property
    def enlarges(self) -> bool:
        """Whether what the U-Net sees is a smaller picture."""
        return 0 < self.low_pixels < self.unet.pixels

    @property
    def changes(self) -> bool:
        """Whether what the U-Net sees is a picture that is to be changed."""
        return self.low_pixels == self.unet.pixels

    def build(self) -> "Diffusion":
        return Diffusion(self)


@dataclass(frozen=True)
class Condition:
    """What is to be drawn: states (B, L, D) of a text with mask (B, L), and one vector pooled (B, P); None is none."""

    states: Tensor | None = None
    mask: Tensor | None = None
    pooled: Tensor | None = None
    nothing: Tensor | None = None  # the vector (P,) that stands for no label

    def kept(self, text: Tensor, pooled: Tensor) -> "Condition":
        """Without the texts and the vectors of the rows (B,) that are False: states of 0, of which one is seen."""
        states, mask, vector = self.states, self.mask, self.pooled
        if states is not None:
            states = states * text[:, None, None].to(states.dtype)
            first = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
            first[:, 0] = True
            mask = torch.where(text[:, None], torch.ones_like(first) if mask is None else mask, first)
        if vector is not None:
            empty = torch.zeros_like(vector) if self.nothing is None else self.nothing.to(vector.dtype)
            vector = torch.where(pooled[:, None], vector, empty)
        return Condition(states, mask, vector, self.nothing)

    def none(self) -> "Condition":
        """Nothing in all rows, which guidance leads away from."""
        given = self.states if self.states is not None else self.pooled
        if given is None:
            return self
        never = torch.zeros(len(given), dtype=torch.bool, device=given.device)
        return self.kept(never, never)

    def each(self, count: int) -> "list[Condition]":
        """Each of `count` rows by itself."""
        return [self.rows(torch.tensor([i])) for i in range(count)]

    def rows(self, rows: Tensor) -> "Condition":
        """Those of the numbers `rows`."""
        states, mask, pooled = (
            None if part is None else part[rows.to(part.device)] for part in (self.states, self.mask, self.pooled)
        )
        return Condition(states, mask, pooled, self.nothing)


def together(conditions: list[Condition]) -> Condition:
    """One after the other; texts of fewer states are filled up with what is not seen."""
    longest = max((c.states.shape[1] for c in conditions if c.states is not None), default=0)
    parts = [_padded(c, longest) for c in conditions]
    columns = zip(*((p.states, p.mask, p.pooled) for p in parts), strict=True)
    states, mask, pooled = (torch.cat(column) if column[0] is not None else None for column in columns)
    return Condition(states, mask, pooled, conditions[0].nothing)


def _padded(condition: Condition, length: int) -> Condition:
    states, mask = condition.states, condition.mask
    if states is None:
        return condition
    mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask
    more = length - states.shape[1]
    states, mask = nn.functional.pad(states, (0, 0, 0, more)), nn.functional.pad(mask, (0, more))
    return dataclasses.replace(condition, states=states, mask=mask)


class TextEncoder(nn.Module):
    """Token ids (B, L) and their mask to states (B, L, D); every token sees the whole text."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.network = Transformer(config)
        if config.encoder_layers:  # the decoder's half is not read
            self.network.blocks, self.network.norm = nn.ModuleList(), nn.Identity()

    def take(self, network: Transformer) -> "TextEncoder":
        """Reads with the weights of a language network of the same configuration, such as a pre-trained T5. Returns
        self."""
        own = self.network.state_dict()
        self.network.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in own})
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        context = Context(positions, mask.long(), causal=False)
        if self.network.config.encoder_layers:
            return self.network.encode(ids, context).states
        return self.network(ids, context)  # type: ignore[no-any-return]


class Diffusion(nn.Module):
    """A conditional diffusion model."""

    def __init__(self, config: DiffusionConfig):
        super().__init__()
        self.config = config
        self.schedule = Schedule(config.schedule, config.steps)
        self.unet = UNet(config.unet)
        self.text = TextEncoder(config.text) if config.text else None
        if self.text is not None and config.frozen_text:
            self.text.requires_grad_(False)
        # One more for a picture without a label.
        self.labels = nn.Embedding(config.classes + 1, config.unet.pooled) if config.classes else None

    def initialize(self, seed: int = 0) -> "Diffusion":
        """Draws fresh weights from `seed`. Returns self."""
        self.unet.initialize(seed)
        if self.text is not None:
            self.text.network.initialize(seed + 1)
        if self.labels is not None:
            nn.init.normal_(self.labels.weight, generator=torch.Generator().manual_seed(seed + 2))
        return self

    @torch.no_grad()
    def begin(self, drawing: "Diffusion") -> "Diffusion":
        """With the weights of a network that draws, and zeros where a picture that is to be changed is seen, if one is
        (Brooks et al. 2023, section 3.2). Returns self."""
        weights, first = drawing.state_dict(), "unet.first.weight"
        wide = torch.zeros_like(self.unet.first.weight)
        wide[:, : weights[first].shape[1]] = weights[first]
        self.load_state_dict(weights | {first: wide})
        return self

    def fill_buffers(self) -> None:
        """Computes what no checkpoint holds, after a build on the meta device."""
        if self.text is not None:
            self.text.network.fill_buffers()

    def condition(
        self, ids: Tensor | None = None, mask: Tensor | None = None, labels: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Condition:  # fmt: skip
        """Of captions ids (B, L) with mask (B, L), of labels (B,), where -1 is none, or of vectors pooled (B, P)."""
        states, nothing = None, None
        if self.text is not None and ids is not None and mask is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen_text):
                states = self.text(ids, mask)
        if self.labels is not None and labels is not None:
            pooled = self.labels(torch.where(labels < 0, self.config.classes, labels))
            nothing = self.labels.weight[self.config.classes]
        return Condition(states, mask if states is not None else None, pooled, nothing)

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition, low: Tensor | None = None, augmentation: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What is predicted of pictures x (B, 3, H, W) at steps t (B,); see `UNet.forward`."""
        return self.unet(  # type: ignore[no-any-return]
            x, t, condition.states, condition.mask, condition.pooled, low, augmentation, guess
        )

    def guided(
        self, x: Tensor, t: Tensor, condition: Condition, guidance: Tensor, low: Tensor | None = None,
        augmentation: Tensor | None = None, guess: Tensor | None = None, picture_guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The same, led away from what would be predicted of no condition by the weights guidance (B,), 1 being none;
        all in one pass. The variance, where it is learned, is that of the condition. picture_guidance (B,), 1 being
        none, leads away from what would be predicted without the picture `low` as well (Brooks et al. 2023,
        "InstructPix2Pix", section 3.2); no picture is one of zeros."""
        away = torch.ones_like(guidance) if picture_guidance is None or low is None else picture_guidance
        led, alone = ((guidance != 1) | (away != 1)).nonzero().flatten(), (away != 1).nonzero().flatten()
        if not len(led):
            return self(x, t, condition, low, augmentation, guess)  # type: ignore[no-any-return]
        rows = torch.cat([torch.arange(len(x), device=x.device), led, alone])
        none = [condition.rows(part).none() for part in (led, alone) if len(part)]
        if low is not None:
            low = torch.cat([low, low[led], torch.zeros_like(low[alone])])
        augmentation, guess = (None if part is None else part[rows] for part in (augmentation, guess))
        output = self(x[rows], t[rows], together([condition, *none]), low, augmentation, guess)
        output, without, nothing = output.split([len(guidance), len(led), len(alone)])
        weights, away = (part.view(-1, 1, 1, 1).to(output.dtype) for part in (guidance[led], away[alone]))
        said = classifier_free(output[led, :3], without[:, :3], weights)
        if len(alone):
            towards = without[torch.isin(led, alone), :3] - nothing[:, :3]
            said = said.index_add(0, torch.isin(led, alone).nonzero().flatten(), (away - 1) * towards)
        return torch.cat([output[:, :3].index_copy(0, led, said), output[:, 3:]], dim=1)
