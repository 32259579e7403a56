"""Small random models that draw, by diffusion and token by token.

What they draw shows nothing, but it must be the same however it is asked.
"""

import base64
import dataclasses
import io
from pathlib import Path

import PIL.Image
import torch

from polytask.interop.networks import NetworkFolder
from polytask.model import Model
from polytask.models.clip import CLIP, CLIPConfig
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.models.prior import PriorConfig
from polytask.models.unet import UNetConfig
from polytask.models.vision_language import VisionLanguageConfig
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.position import Grid
from polytask.nn.quantizer import Categorical
from polytask.pictures import PictureModel
from polytask.pictures.painter import Painter
from polytask.systems.gpt3 import gpt3
from tests.inference.networks import TOKENIZER, network

LENGTH = 24  # tokens of a caption
UNET = UNetConfig(pixels=8, channels=16, multipliers=(1, 2), blocks=1, attention=(4,), groups=8, head_dim=16, text=16)
READER = gpt3(1, 16, 2, band=None, vocab_size=TOKENIZER.vocab_size, context_length=LENGTH)


def shaken(network, seed: int = 0):
    """With weights that are all drawn, so that pictures depend on captions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


def diffusion(base: PictureModel | None = None, **words) -> PictureModel:
    """A model of captions; over a base one that enlarges its pictures."""
    unet = dataclasses.replace(UNET, **words)
    low = {} if base is None else {"low_pixels": base.side}
    below = None if base is None else base.painter
    return diffusion_of(DiffusionConfig(unet, text=READER, steps=100, **low), base=below)


def diffusion_of(config: DiffusionConfig, **parts) -> PictureModel:
    return _model(shaken(Diffusion(config).initialize(0)), {"text_length": LENGTH}, **parts)


def cascade() -> PictureModel:
    return diffusion(diffusion(), pixels=16, attention=(8,), low=True)


def instructed() -> PictureModel:
    """What changes a picture as an instruction says."""
    return diffusion_of(DiffusionConfig(dataclasses.replace(UNET, low=True), text=READER, steps=100, low_pixels=8))


def by_label(labels=("circle", "square")) -> PictureModel:
    config = DiffusionConfig(dataclasses.replace(UNET, text=0, pooled=16), classes=len(labels), steps=100)
    return _model(shaken(Diffusion(config).initialize(0)), {"labels": list(labels)})


def unclip() -> PictureModel:
    """DALL-E 2's form: what it draws follows an embedding of CLIP, which a prior makes of a caption."""
    vision = ViTConfig(8, 4, 1, 16, Attention(2, bias=True), MLP(32, "quick_gelu", True))
    clip = shaken(CLIP(CLIPConfig(vision, READER, 16)).initialize(0))
    prior = PriorConfig(16, 16, LENGTH, 1, 16, Attention(2), MLP(32))
    config = DiffusionConfig(dataclasses.replace(UNET, pooled=16), text=READER, steps=100)
    parts = {"clip": clip, "prior": shaken(prior.build().initialize(0))}
    return _model(shaken(Diffusion(config).initialize(0)), {"text_length": LENGTH}, **parts)


def _model(network: Diffusion, about, **parts) -> PictureModel:
    return PictureModel(Painter(NetworkFolder(Path(), network.config, about, TOKENIZER), network, **parts))


def by_tokens(context: int = 256) -> Model:
    """A decoder of texts and pictures of 8 x 8 pixels, 16 tokens each."""
    config = AutoencoderConfig(image=8, width=8, quantizer=Categorical(12), groups=1, blocks=1, first=8)
    tokenizer = TOKENIZER.with_pictures(Autoencoder(config).initialize(0))
    vocabulary = tokenizer.pictures.vocabulary
    grid = Grid(vocabulary.first, vocabulary.height, vocabulary.width)  # as recipes have it
    return Model(network(context=context, vocab_size=vocabulary.size, grid=grid), tokenizer)


def looking(context: int = 256) -> Model:
    """A decoder that looks at pictures of 8 x 8 pixels by itself, in 4 states each."""
    vision = ViTConfig(8, 4, 1, 16, Attention(2, bias=True), MLP(32, "quick_gelu", True))
    text = network(context=context, vocab_size=TOKENIZER.vocab_size + 1).config
    config = VisionLanguageConfig(vision, text, placeholder=TOKENIZER.vocab_size, left_out=0)
    tokenizer = TOKENIZER.with_sight(config.placeholder, config.states, vision.image)
    return Model(shaken(config.build().initialize(0)), tokenizer)


def picture(size=(8, 8), mode: str = "RGB", seed: int = 0, form: str = "PNG", **words) -> bytes:
    """The file of a picture of noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.numpy()).convert(mode).save(file, form, **words)
    return file.getvalue()


def hole(size=(8, 8)) -> bytes:
    """A mask whose right half is transparent."""
    mask = PIL.Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (size[0] // 2, 0, size[0], size[1]))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def shown(b64_json: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(b64_json)))


def pixels(picture) -> bytes:
    """Of a PIL image or an entry of `data`, to compare."""
    return (picture if isinstance(picture, PIL.Image.Image) else shown(picture.b64_json)).tobytes()
