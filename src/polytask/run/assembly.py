"""What a recipe becomes: a tokenizer, prepared data, a loader, a network."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.data.loader import Loader
from polytask.data.prepare import Prepared, Progress, cache_folder, prepare
from polytask.data.sources import SourceSpec, read
from polytask.errors import ConfigError
from polytask.interop import networks
from polytask.interop.folder import load_network, read_folder
from polytask.models import cost
from polytask.models.networks import Language, build, with_decoder
from polytask.models.transformer import Transformer
from polytask.models.vision_language import VisionLanguage, VisionLanguageConfig
from polytask.recipe import Recipe, load_recipe
from polytask.run.mixing import loader_options
from polytask.run.pictures import PictureAssembly, assemble_pictures
from polytask.tasks import Text, check, get_task
from polytask.tokenizers.text import TextTokenizer
from polytask.training.objectives import OBJECTIVES

if TYPE_CHECKING:
    import torch

    from polytask.data.batch import Batch
    from polytask.training.parallel.data import World

VALIDATION_BATCHES = 50  # of each source at most, which is enough for three digits of a loss


@dataclass(frozen=True)
class Assembly:
    """A recipe with its tokenizer, its data and its network's configuration; nothing of it is on a device yet."""

    recipe: Recipe
    tokenizer: TextTokenizer
    prepared: Prepared
    config: Language
    unit: str = field(default="tokens", init=False)

    @property
    def objective_name(self) -> str:
        """The recipe's, else what the network is made for. Raises ConfigError where it cannot do what is asked."""
        encoder, chosen = self.config.decoder.encoder_layers > 0, self.recipe.objective_of(self.config)
        if encoder != (chosen == "seq2seq"):
            kind = "an encoder-decoder, which learns by seq2seq" if encoder else "a decoder, which has no seq2seq"
            raise ConfigError(f"training.objective={chosen}: the model is {kind}.")
        for source in self.recipe.data.sources if encoder else []:
            if source.together > 1:
                raise ConfigError(
                    f"data.sources: '{source.from_}' has `together`, and an encoder-decoder learns a document's last "
                    "answer alone; leave it out."
                )
        return chosen

    def loader(self, world: "World | None" = None) -> Loader:
        training = self.recipe.training
        return Loader(
            self.prepared,
            context_length=training.context_length,
            objective=self.objective_name,  # type: ignore[arg-type]
            encoder_length=training.encoder_length,
            picture_share=training.picture_share,
            **loader_options(self.recipe, world),
        )

    def objective(self, device: "torch.device") -> Any:
        """What is minimised."""
        training = self.recipe.training
        return OBJECTIVES.get(self.objective_name)(training.label_smoothing, training.z_loss)

    def flops(self, loader: Loader) -> float:
        """Of a token in training, forward and backward; pictures are taken to be as frequent as in all sources."""
        flops = cost.flops_per_token(self.config.decoder, loader.length)
        if not isinstance(self.config, VisionLanguageConfig):
            return flops
        counts = [source.train.counts for source in self.prepared.sources]
        share = sum(count.pictures for count in counts) / max(1, sum(count.tokens for count in counts))
        return flops + share * cost.flops_per_picture(self.config)

    def network(self, device: "torch.device") -> Transformer | VisionLanguage:
        """Fresh weights from the recipe's seed, or those of the checkpoint that the model comes from."""
        if self.recipe.model.from_ is None:
            return build(self.config).initialize(self.recipe.seed).to(device)
        folder = replace(read_folder(self.recipe.model.from_), config=self.config)
        return load_network(folder, device=str(device))

    def validation(self, loader: Loader) -> "dict[str, Callable[[], Iterator[Batch]]]":
        """A pass over the held-out rows of each source that has any."""
        held = [source.name for source in self.prepared.sources if len(source.validation)]
        return {name: lambda name=name: loader.validation_batches(name, VALIDATION_BATCHES) for name in held}


def read_recipe(name: str, changes: Sequence[str], data_dir: Path | None = None) -> Recipe:
    """The recipe with changes; `data_dir` replaces the folder in which its data lies. Raises ConfigError."""
    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise ConfigError(f"--data-dir {data_dir}: there is no such folder.")
    folder = [f"data.folder={json.dumps(str(data_dir.expanduser().resolve()))}"] if data_dir else []
    recipe = load_recipe(name, [*changes, *folder])
    if recipe.data.folder is not None:
        return recipe
    # One that polytask comes with; a run keeps its recipe, which must mean the same from wherever it is read again.
    here = str(Path(os.environ.get("POLYTASK_DATA") or ".").expanduser().resolve())
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"folder": here})})


def assemble_any(
    recipe: Recipe, *, tokenizer: TextTokenizer | None = None, progress: Progress | None = None
) -> Assembly | PictureAssembly:
    """`assemble`, or the same for a network that learns from pictures."""
    if recipe.draws:
        return assemble_pictures(recipe, tokenizer, lambda: tokenizer_of(recipe), progress)
    return assemble(recipe, tokenizer=tokenizer, progress=progress)


def assemble(recipe: Recipe, *, tokenizer: TextTokenizer | None = None, progress: Progress | None = None) -> Assembly:
    """Learns the tokenizer unless one is given, tokenizes the data, derives the network; all of it cached."""
    tokenizer = tokenizer_of(recipe) if tokenizer is None else with_pictures(recipe, tokenizer)
    prepared = prepare(recipe.sources(), tokenizer, recipe.data.held_out, progress=progress, dropout=recipe.dropout)
    return Assembly(recipe, tokenizer, prepared, config_of(recipe, tokenizer))


def config_of(recipe: Recipe, tokenizer: TextTokenizer) -> Language:
    """The network's configuration, from the recipe's system or the checkpoint that it goes on from."""
    if recipe.model.from_ is None:
        pictures = tokenizer.drawing and tokenizer.drawing.vocabulary
        config = recipe.network(tokenizer.size, pictures)
        if (size := config.decoder.vocab_size) < tokenizer.size:
            raise ConfigError(
                f"model.vocab_size={size} is below the {tokenizer.size} tokens of the tokenizer; "
                "leave it out to have as many."
            )
        return config
    config = read_folder(recipe.model.from_, check=False).config
    longest = max(recipe.training.context_length, recipe.training.encoder_length or 0)
    if longest > (length := config.decoder.context_length):
        raise ConfigError(
            f"training.context_length={longest} is longer than the {length} tokens that "
            f"{recipe.model.from_} was built for."
        )
    dropout = recipe.training.dropout
    dropout = recipe.model.changes.get("dropout", config.decoder.dropout) if dropout is None else dropout
    return recipe.reading(with_decoder(config, dropout=dropout))


def with_pictures(recipe: Recipe, tokenizer: TextTokenizer) -> TextTokenizer:
    """The tokenizer with the codes of pictures that the recipe names, or with the placeholder of a network that looks
    by itself. Raises CheckpointError, TokenizerError."""
    if recipe.looks:
        config = recipe.network(tokenizer.vocab_size + 1)
        assert isinstance(config, VisionLanguageConfig)
        return tokenizer.with_sight(config.placeholder, config.states, config.vision.image)
    wish = recipe.tokenizer.pictures
    return tokenizer if wish is None else tokenizer.with_pictures(networks.load(wish.from_), wish.text_length)


def tokenizer_of(recipe: Recipe) -> TextTokenizer:
    """The tokenizer that the recipe names, or one learned from its data, once; later runs find it in the cache."""
    return with_pictures(recipe, _texts_tokenizer(recipe))


def _texts_tokenizer(recipe: Recipe) -> TextTokenizer:
    wish = recipe.tokenizer
    if recipe.model.from_ is not None:
        if wish.file is not None or wish.pictures is not None:
            raise ConfigError(
                f"tokenizer.{'file' if wish.file else 'pictures'}: the model that comes from {recipe.model.from_} "
                "knows no tokenizer but its own; leave the key out."
            )
        return read_folder(recipe.model.from_, check=False).tokenizer
    if wish.file is not None:
        return TextTokenizer.load(Path(recipe.data.folder or ".") / Path(wish.file).expanduser())
    if wish.kind == "bytes":
        return TextTokenizer.bytes()
    sources = recipe.sources()
    parts = [wish.kind, wish.size, wish.rows, *((s.fingerprint(), str(s.task)) for s in sources)]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    file = cache_folder() / "tokenizers" / f"{name}.json"
    if file.is_file():
        return TextTokenizer.load(file)
    texts = _texts(sources, wish.rows)
    made = TextTokenizer.characters(texts) if wish.kind == "characters" else TextTokenizer.train(texts, wish.size)
    fresh = file.with_suffix(f".{os.getpid()}")
    made.save(fresh)
    os.replace(fresh, file)
    return made


def _texts(sources: Sequence[SourceSpec], rows: int) -> Iterator[str]:
    """All that the model will read and write, prompts included."""
    for source in sources:
        task = get_task(source.task) if isinstance(source.task, str) else source.task
        for row in islice(read(source), rows):
            for segment in task.segments(check(task, row)):
                if isinstance(segment, Text):
                    yield segment.text
