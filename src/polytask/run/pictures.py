"""What a recipe of a network for pictures becomes: prepared pictures, a loader, a network and the frozen ones it
reads."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from polytask.data.albums import Pictures, prepare_pictures
from polytask.data.pictures import PictureLoader
from polytask.data.prepare import Progress
from polytask.data.sources import GENERATORS, SourceSpec
from polytask.errors import ConfigError
from polytask.interop import folder as folders
from polytask.interop import networks
from polytask.models import built
from polytask.models.catalogue import dials_of
from polytask.models.classifier import ClassifierConfig
from polytask.models.clip import CLIPConfig
from polytask.models.config import TransformerConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.dvae import AutoencoderConfig
from polytask.models.networks import Picturing, side_of
from polytask.models.prior import SCHEDULE
from polytask.recipe import Recipe
from polytask.registry import nearest
from polytask.run.card import picture_card
from polytask.run.costs import flops_of
from polytask.run.mixing import loader_options
from polytask.tokenizers.text import TextTokenizer
from polytask.training.checkpoint import Made
from polytask.training.objectives import OBJECTIVES
from polytask.training.objectives.dvae import Annealing

if TYPE_CHECKING:
    import torch

    from polytask.data.pictures import PictureBatch
    from polytask.training.parallel.data import World

VALIDATION_BATCHES = 20  # of each source at most
SAID = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}  # kinds of dials
KINDS = {
    CLIPConfig: "contrastive",
    ClassifierConfig: "classifying",
    AutoencoderConfig: "dvae",
    DiffusionConfig: "denoising",
}  # else a prior
BEGINNINGS = ("text_encoder", "drawing")  # whose weights a network takes over; the others stand beside it
BY_LABEL = {"ddpm": "draws", "classifier": "classifies"}  # systems that have as many classes as their data


@dataclass(frozen=True)
class Frozen:
    """The networks of earlier runs that a recipe names, read but for their weights. Raises CheckpointError."""

    recipe: Recipe

    def __post_init__(self) -> None:
        for name, wanted in (("clip", CLIPConfig), ("base", DiffusionConfig), ("drawing", DiffusionConfig)):
            if (one := self.folder(name)) is not None and not isinstance(one.config, wanted):
                raise ConfigError(
                    f"model.{name}: {self.recipe.model.frozen[name]} holds a {type(one.config).__name__}, not a "
                    f"{wanted.__name__}; name the folder of another run."
                )
        for name in ("base", "drawing"):
            config = one.config if (one := self.folder(name)) is not None else None
            does = "changes" if config and config.changes else "enlarges" if config and config.enlarges else ""
            if does == "changes" or (does and name == "drawing"):
                raise ConfigError(
                    f"model.{name}: {self.recipe.model.frozen[name]} {does} pictures and draws none; name a run that "
                    "draws, such as runs/imagen-blocks."
                )
        drawing, embed = self.folder("drawing"), 0 if self.clip is None else self.clip.embed
        if drawing is not None and (drawing.config.text is None or drawing.config.unet.pooled != embed):
            raise ConfigError(
                f"model.drawing: {self.recipe.model.frozen['drawing']} {_drawn(drawing.config)}; name a run that "
                + (f"draws embeddings of {embed}, such as runs/unclip-blocks." if embed else
                   "draws captions alone, such as runs/imagen-blocks.")
            )  # fmt: skip

    @cached_property
    def folders(self) -> dict[str, Any]:
        """By name: a `NetworkFolder`, or the `Folder` of a language network."""
        found = {}
        for name, path in self.recipe.model.frozen.items():
            found[name] = folders.read_folder(path) if name == "text_encoder" else networks.read(path)
        return found

    def folder(self, name: str) -> Any:
        return self.folders.get(name)

    @property
    def clip(self) -> CLIPConfig | None:
        return self.folders["clip"].config if "clip" in self.folders else None

    def tokenizer(self) -> TextTokenizer | None:
        """Theirs, which must be one and the same; None where they have none."""
        found = {name: one.tokenizer for name, one in self.folders.items() if one.tokenizer is not None}
        first = next(iter(found), None)
        for name, other in found.items():
            if first is not None and other.fingerprint != found[first].fingerprint:
                raise ConfigError(
                    f"model.{name}: its tokenizer is another than that of model.{first}, and a caption is read once "
                    "for both; train them with one tokenizer (tokenizer.file)."
                )
        return found[first] if first is not None else None

    @property
    def text_length(self) -> int:
        """Tokens of a caption, as many as all that read it take."""
        longest = self.recipe.training.context_length
        if self.clip is not None:
            return self.clip.text.context_length
        for name in ("base", "drawing", "text_encoder"):
            if (one := self.folder(name)) is not None:
                text = one.config if isinstance(one.config, TransformerConfig) else one.config.text
                longest = min(longest, text.context_length) if text is not None else longest
        return longest

    def sizes(self, **known: Any) -> dict[str, Any]:
        """What a network that reads them must have, beside what is known."""
        found = {"context_length": self.text_length, **known}
        if (clip := self.clip) is not None:
            found |= {"embed": clip.embed, "text_dim": clip.text.dim, "text_length": self.text_length}
            found |= {"pixels": clip.vision.image}
        if (encoder := self.folder("text_encoder")) is not None:
            found["text"] = encoder.config
        if (drawing := self.folder("drawing")) is not None:
            found["drawing"] = drawing.config
        if (base := self.folder("base")) is not None:
            found["low_pixels"] = base.config.unet.pixels
        return found


def _drawn(config: DiffusionConfig) -> str:
    if config.text is None:
        return "reads no captions"
    pooled = config.unet.pooled
    return f"draws embeddings of {pooled} numbers beside captions" if pooled else "draws captions alone"


def picture_config(recipe: Recipe, frozen: Frozen, **known: Any) -> Picturing:
    """The network of a recipe. Raises ConfigError."""
    config = recipe.picture_network(**frozen.sizes(**known))
    clip = frozen.clip
    if clip is not None and isinstance(config, DiffusionConfig) and config.unet.pixels != clip.vision.image:
        raise ConfigError(
            f"model.pixels={config.unet.pixels}: the CLIP of {recipe.model.frozen['clip']} reads pictures of "
            f"{clip.vision.image} pixels; leave the key out to have as many."
        )
    return config  # type: ignore[no-any-return]


def reads_captions(recipe: Recipe) -> bool:
    """Whether the network has anything that reads texts."""
    return "vocab_size" in dials_of(recipe.model.system or "") or "clip" in recipe.model.frozen


@dataclass(frozen=True)
class PictureAssembly:
    """`run.assembly.Assembly` for a network that learns from pictures. tokenizer: None where it reads no captions."""

    recipe: Recipe
    tokenizer: TextTokenizer | None
    prepared: Pictures
    config: Picturing
    frozen: Frozen
    unit: str = field(default="pictures", init=False)

    def loader(self, world: "World | None" = None) -> PictureLoader:
        words = loader_options(self.recipe, world)
        words |= {"text_length": self.frozen.text_length, "dropout": self.recipe.dropout}
        return PictureLoader(self.prepared, self.tokenizer, **words)

    def network(self, device: "torch.device") -> Any:
        """Fresh weights from the recipe's seed, but for a frozen text encoder, or those of a network that draws."""
        network: Any = self.config.build().initialize(self.recipe.seed)
        if (encoder := self.frozen.folder("text_encoder")) is not None:
            assert network.text is not None
            network.text.take(folders.load_network(encoder))
        if (drawing := self.frozen.folder("drawing")) is not None:
            network.begin(networks.load(drawing.path))
        return network.to(device)

    def objective(self, device: "torch.device") -> Any:
        """What the network is made for, with the dials of the recipe and the frozen networks that it reads."""
        kind, dials = KINDS.get(type(self.config), "prior"), checked_dials(self.recipe, self.config)
        made = OBJECTIVES.get(kind)
        clip = self.frozen.folder("clip")
        encoder = None if clip is None else networks.load(clip.path, device=device).requires_grad_(False)
        if kind == "prior":
            return made(encoder, SCHEDULE.alpha_bar, **dials)
        return made(**dials, encoder=encoder) if kind == "denoising" else made(**dials)

    def validation(self, loader: Any) -> "dict[str, Callable[[], Iterator[PictureBatch]]]":
        held = [source.name for source in self.prepared.sources if len(source.validation)]
        return {name: lambda name=name: loader.validation_batches(name, VALIDATION_BATCHES) for name in held}

    def flops(self, loader: Any) -> float:
        """Of a picture in training, forward and backward, with a caption as long as those of the first batch."""
        length = loader.batch(0).ids.shape[1] or self.frozen.text_length
        return flops_of(self.config, length, checked_dials(self.recipe, self.config).get("crop"))

    def saver(self, network: Any) -> Any:
        """The trainer's `save`: a folder that draws by itself, with the frozen networks in it."""
        about = self._about()
        parts = {name: one.path for name, one in self.frozen.folders.items() if name not in BEGINNINGS}

        def save(folder: Path, weights: Mapping[str, "torch.Tensor"], made: Made) -> None:
            said = about | {"steps": made.steps, "pictures_seen": made.tokens, "figures": made.finite}
            networks.write(
                folder, network, about=said, tokenizer=self.tokenizer, card=picture_card(said), weights=weights,
                parts=parts,
            )  # fmt: skip

        return save

    def _about(self) -> dict[str, Any]:
        data = []
        for spec, source in zip(self.recipe.sources(), self.prepared.sources):
            said = {"name": source.name, "from": spec.from_, "licence": spec.licence, "attribution": spec.attribution}
            data.append({k: v for k, v in said.items() if v} | {"pictures": len(source.train) + len(source.validation)})
        return {
            "name": self.recipe.name,
            "system": self.recipe.model.system,
            "date": date.today().isoformat(),
            "parameters": built.parameters(self.config),
            "pixels": self.prepared.size,
            "text_length": self.frozen.text_length if self.tokenizer is not None else 0,
            "labels": list(self.prepared.labels) if getattr(self.config, "classes", 0) else [],
            "drawing": dict(self.recipe.drawing),
            "data": data,
            "recipe": self.recipe.dump(),
        }


def checked_dials(recipe: Recipe, config: Picturing) -> dict[str, Any]:
    """The recipe's dials of what such a network is made for. Raises ConfigError where one is not known or not of its
    kind."""
    found, kind = dict(recipe.training.dials), KINDS.get(type(config), "prior")
    known: dict[str, Any] = {"drop": float} if kind == "prior" else {}
    if kind not in ("prior", "contrastive"):
        made = OBJECTIVES.get(kind)
        kinds = get_type_hints(made)
        known = {one.name: kinds[one.name] for one in dataclasses.fields(made) if one.init and one.name != "encoder"}
    for name, value in found.items():
        if name not in known:
            raise ConfigError(f"training.dials: {recipe.model.system} has no '{name}': {nearest(name, list(known))}")
        if known[name] is Annealing:
            found[name] = _annealing(name, value)
            continue
        kinds = get_args(known[name]) or (known[name],)
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise ConfigError(f"training.dials: {name}={value} must be {' or '.join(SAID[one] for one in kinds)}.")
    if (crop := found.get("crop")) is not None and crop < 1:
        raise ConfigError(f"training.dials: crop={crop} must be at least 1, the side of the part in pixels.")
    return found


def _annealing(name: str, value: Any) -> Annealing:
    """[start, end, updates] of a recipe."""
    if not (isinstance(value, list) and len(value) == 3 and all(isinstance(x, int | float) for x in value)):
        raise ConfigError(f"training.dials: {name} is [start, end, updates], such as [1.0, 0.0625, 2000].")
    return Annealing(float(value[0]), float(value[1]), int(value[2]))


def assemble_pictures(
    recipe: Recipe, tokenizer: TextTokenizer | None, learn: Callable[[], TextTokenizer], progress: Progress | None
) -> PictureAssembly:
    """`learn` gives the recipe's tokenizer where neither a run nor a frozen network has one."""
    frozen = Frozen(recipe)
    if not reads_captions(recipe):
        tokenizer = None
    elif tokenizer is None:
        tokenizer = frozen.tokenizer() or learn()
    known: dict[str, Any] = {}
    if tokenizer is not None:
        known = {"vocab_size": tokenizer.vocab_size}
        if recipe.model.system == "clip":
            known["end"] = tokenizer.special["<|end|>"]
    size = side_of(picture_config(recipe, frozen, **known), frozen.clip)
    told = None if progress is None else lambda name, rows: progress(name, rows, 0)
    sources = [sized(spec, size) for spec in recipe.sources()]
    prepared = prepare_pictures(sources, size, recipe.data.fit, recipe.data.held_out, progress=told)
    if (does := BY_LABEL.get(recipe.model.system or "")) is not None:
        if not prepared.labels:
            raise ConfigError(
                f"data.sources: no picture has a label, and {recipe.model.system} {does} by label; use task "
                "classification."
            )
        known["classes"], said = len(prepared.labels), recipe.model.changes.get("classes")
        if said not in (None, known["classes"]):
            raise ConfigError(
                f"model.classes={said}, but the data has {known['classes']} labels; leave it out to have as many."
            )
    return PictureAssembly(recipe, tokenizer, prepared, picture_config(recipe, frozen, **known), frozen)


def sized(spec: SourceSpec, size: int) -> SourceSpec:
    """Generated worlds draw at the size that the network reads, unless the recipe says another."""
    if spec.from_ not in GENERATORS:
        return spec
    return dataclasses.replace(spec, options={"pixels": size, **spec.options})
