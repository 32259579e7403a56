"""One model, many tasks: train it, tune it, judge it, ask it.

    import polytask as pt
    model = pt.load("demo/model")
    model.translate("A large red circle is at the top.", to="de")

Names are imported when they are first used, so that `import polytask` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polytask.errors import Error as Error
    from polytask.evaluation.evaluate import evaluate as evaluate
    from polytask.inference.engine import Engine as Engine
    from polytask.inference.sampling import Sampling as Sampling
    from polytask.inference.sequence import Completion as Completion
    from polytask.inference.sequence import Request as Request
    from polytask.model import Answer as Answer
    from polytask.model import Model as Model
    from polytask.models.catalogue import build_config as build_config
    from polytask.models.transformer import Transformer as Transformer
    from polytask.pictures import PictureModel as PictureModel
    from polytask.pictures.classifying import PictureClassifier as PictureClassifier
    from polytask.pictures.matching import PictureMatcher as PictureMatcher
    from polytask.recipe import load_recipe as load_recipe
    from polytask.run.ask import open_any as load
    from polytask.run.train import train as train
    from polytask.run.tune import Tuning as Tuning
    from polytask.run.tune import tune as tune
    from polytask.tasks import TASKS as TASKS
    from polytask.tasks import Text as Text
    from polytask.tasks import get_task as get_task
    from polytask.tokenizers.text import TextTokenizer as TextTokenizer

_HOMES = {
    "Answer": "polytask.model", "Completion": "polytask.inference.sequence", "Engine": "polytask.inference.engine",
    "Error": "polytask.errors", "Model": "polytask.model", "Request": "polytask.inference.sequence",
    "Sampling": "polytask.inference.sampling", "TASKS": "polytask.tasks", "Text": "polytask.tasks",
    "PictureClassifier": "polytask.pictures.classifying", "PictureMatcher": "polytask.pictures.matching",
    "PictureModel": "polytask.pictures",
    "TextTokenizer": "polytask.tokenizers.text",
    "Transformer": "polytask.models.transformer",
    "build_config": "polytask.models.catalogue", "evaluate": "polytask.evaluation.evaluate",
    "get_task": "polytask.tasks", "load_recipe": "polytask.recipe", "train": "polytask.run.train",
    "Tuning": "polytask.run.tune", "tune": "polytask.run.tune",
}  # fmt: skip

__all__ = [*_HOMES, "load"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "load":
        return import_module("polytask.run.ask").open_any
    if name == "__version__":
        return import_module("polytask.runtime").version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'polytask' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
