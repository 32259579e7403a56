"""What a recipe of a network for pictures may and must say beside its sizes."""

from typing import TYPE_CHECKING

from polytask.errors import ConfigError
from polytask.registry import nearest
from polytask.tasks import get_task
from polytask.tasks.task import draws

if TYPE_CHECKING:
    from polytask.recipe import Recipe

# By system: the networks of earlier runs that it needs, and those that it may take.
NEEDS = {"dalle2-prior": ("clip",), "dalle2": ("clip",)}
TAKES = {
    "imagen": ("text_encoder", "drawing"),
    "imagen-upsampler": ("base", "text_encoder"),
    "instruct-pix2pix": ("drawing", "text_encoder"),
    "dalle2-prior": ("clip",),
    "dalle2": ("clip", "prior", "text_encoder", "drawing"),
    "dalle2-upsampler": ("base",),
}


def check_network(recipe: "Recipe") -> None:
    """Raises ConfigError where the network cannot be built, or the recipe says what its kind of network has not."""
    system = recipe.model.system or ""
    takes = TAKES.get(system, ())
    for name in recipe.model.frozen:
        if name not in takes:
            known = f"it takes {', '.join(takes)}" if takes else "leave it out"
            raise ConfigError(f"model.{name}: {system} reads no other network under that name; {known}.")
    for name in NEEDS.get(system, ()):
        if name not in recipe.model.frozen:
            raise ConfigError(
                f"model.{name} is missing: {system} learns from the embeddings of a trained one; write {name}: "
                f"{{from: FOLDER}}, such as runs/{name}-blocks."
            )
    if "drawing" in recipe.model.frozen:
        for name in [*recipe.model.changes, *({"text_encoder"} & recipe.model.frozen.keys())]:
            raise ConfigError(f"model.{name}: the network has all of the sizes of model.drawing; leave it out.")
    if recipe.looks:
        _check_looking(recipe)
    if not recipe.draws:
        if recipe.training.dials:
            raise ConfigError(f"training.dials: {system} has none; they are of networks for pictures.")
        recipe.network(1000)
        return
    _check_training(recipe)
    recipe.picture_network(vocab_size=1000, context_length=recipe.training.context_length)


def check_drawing(recipe: "Recipe") -> None:
    """Raises ConfigError where the section `drawing` has what no picture is drawn by, or not by such a network."""
    from polytask.diffusion.schedule import Schedule, path
    from polytask.inference.dials import Drawing, expect_fitting, expect_usual
    from polytask.models.diffusion import DiffusionConfig

    if not recipe.drawing:
        return
    size = recipe.training.context_length
    config = recipe.picture_network(vocab_size=1000, context_length=size) if recipe.draws else None
    if not isinstance(config, DiffusionConfig):
        raise ConfigError(
            f"drawing: it says how diffusion draws, and {recipe.model.system or 'a model from a checkpoint'} is none; "
            "leave the section out."
        )
    expect_usual(recipe.drawing)
    prior = "prior" in recipe.model.frozen
    expect_fitting(recipe.drawing, changes=config.changes, told=config.unet.augmentation, prior=prior)
    wish = Drawing.of(recipe.drawing)
    if "drawing" not in recipe.model.frozen:  # else the schedule is that network's
        path(Schedule(config.schedule, config.steps), wish.steps, wish.spacing)


def _check_looking(recipe: "Recipe") -> None:
    for source in recipe.data.sources:
        if draws(get_task(source.task)):
            raise ConfigError(
                f"data.sources: task {source.task} draws pictures, and {recipe.model.system} looks at them alone; "
                "leave the source out, or take generalist with tokenizer.pictures."
            )


def _check_training(recipe: "Recipe") -> None:
    training, system = recipe.training, recipe.model.system
    if recipe.model.size is not None:
        raise ConfigError(
            f"model.size: the published sizes of {system} are for `polytask systems show`, and no recipe trains them; "
            "give sizes such as channels, dim or layers."
        )
    for name in ("tokens", "batch_tokens"):
        if getattr(training, name) is not None:
            raise ConfigError(f"training.{name}: {system} learns from pictures; write steps and batch_rows.")
    for name in ("label_smoothing", "z_loss"):
        if getattr(training, name):
            own = system == "classifier" and name == "label_smoothing"
            instead = "write training.dials.smoothing" if own else "leave it out"
            raise ConfigError(f"training.{name} is of texts, and {system} learns from pictures; {instead}.")
    if training.objective is not None:
        raise ConfigError(f"training.objective: {system} has one of its own; leave the key out.")
    if recipe.evaluation.tasks or recipe.evaluation.samples:
        raise ConfigError(
            "evaluation: tasks and samples are of networks that write; judge what this one draws by `polytask eval`."
        )
    changes = recipe.model.system == "instruct-pix2pix"
    fitting = ("editing",) if changes else ("drawing", "captioning", "classification")
    wanted = "picture before and after an instruction" if changes else "picture with a caption or a label"
    for source in recipe.data.sources:
        if source.task not in fitting:
            raise ConfigError(f"data.sources: task {source.task} has no {wanted}; {nearest(source.task, fitting)}")
        if source.together > 1:
            raise ConfigError("data.sources: `together` makes documents of a decoder of texts; leave it out.")
