"""polytask ask: a checkpoint, a task and an example become answers."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import ConfigError
from polytask.interop import networks
from polytask.model import Answer, Model
from polytask.pictures import PictureModel
from polytask.pictures.classifying import PictureClassifier
from polytask.pictures.matching import PictureMatcher
from polytask.tasks import Task
from polytask.tasks.picture import decode, encoded, png

if TYPE_CHECKING:
    from PIL.Image import Image


def open_model(path: str, **words: Any) -> Model:
    """The model of a checkpoint folder, on the best device there is; `words` as `Model.load` takes them.

    Raises CheckpointError.
    """
    runtime.prepare(huge_pages=True)
    return Model.load(path, **words)


def open_any(path: str | Path, **words: Any) -> Any:
    """The model of a checkpoint folder: a Model, a PictureModel, a PictureMatcher or a PictureClassifier, as the folder
    says, which no type checker knows; `load` of one of them does. `words` as that one takes them. Raises
    CheckpointError.
    """
    if Path(path).is_dir() and networks.is_clip(path):
        return open_matcher(path, **words)
    if Path(path).is_dir() and networks.is_classifier(path):
        return open_classifier(path, **words)
    if Path(path).is_dir() and networks.is_drawing(path):
        return PictureModel.load(path, **plain_loading(path, words))
    return Model.load(path, **words)


def answers(model: Model, task: Task, example: Mapping[str, Any], sampling: Mapping[str, Any]) -> list[Answer]:
    """All samples of an answer."""
    if task.name == "text" and not example.get("text"):
        given = model.generate(**sampling, details=True)
    else:
        given = model.ask(task, example, **sampling, details=True)
    return given if isinstance(given, list) else [given]


def open_matcher(path: str | Path, **words: Any) -> PictureMatcher:
    """The CLIP of a folder. Raises CheckpointError, ConfigError."""
    return PictureMatcher.load(path, **plain_loading(path, words))


def open_classifier(path: str | Path, **words: Any) -> PictureClassifier:
    """The classifier of a folder. Raises CheckpointError, ConfigError."""
    return PictureClassifier.load(path, **plain_loading(path, words))


def plain_loading(path: str | Path, words: Mapping[str, Any]) -> Mapping[str, Any]:
    """`words` of loading. Raises ConfigError for those that are of language models alone."""
    for name in words:
        if name not in ("dtype", "device", "check"):
            raise ConfigError(f"--{name}: {path} holds no language model, of which alone that is; leave it out.")
    return words


def classified(
    model: Model | PictureModel | PictureMatcher | PictureClassifier, image: bytes, labels: list[str] | None,
    templates: list[str] | None,
) -> Answer:  # fmt: skip
    """The label of a picture, by a CLIP, by a classifier, which has labels of its own, or by what reads pictures and
    texts. Raises ConfigError, TaskError."""
    if isinstance(model, PictureMatcher):
        shares = model.probabilities([image], labels or [], templates)[0]
        return Answer(max(shares, key=shares.__getitem__), None, shares)
    if isinstance(model, PictureModel):
        raise ConfigError(
            "This model draws pictures and reads none; classify with a CLIP, such as that of clip-blocks."
        )
    if templates:
        raise ConfigError("--template is of a CLIP, which compares a picture with texts; leave it out.")
    if isinstance(model, PictureClassifier):
        shares = model.probabilities([image], labels)[0]
        return Answer(max(shares, key=shares.__getitem__), None, shares)
    return model.ask("classification", {"image": image, "labels": labels}, details=True)  # type: ignore[no-any-return]


def plain(answers: list[Answer], model: Model) -> dict[str, Any]:
    """Data for JSON: the answer, the probabilities of its choices, and at each place the likeliest tokens if asked for.

    Each of them is a list where there are several answers.
    """
    found: dict[str, list[Any]] = {"answer": [answer.value for answer in answers]}
    if any(answer.probabilities for answer in answers):
        found["probabilities"] = [answer.probabilities for answer in answers]
    if any(answer.completion and answer.completion.logprobs for answer in answers):
        found["logprobs"] = [
            [[_token(model, *one) for one in place.items()] for place in answer.completion.logprobs or []]
            for answer in answers
            if answer.completion
        ]
    return {name: values if len(answers) > 1 else values[0] for name, values in found.items()}


def _token(model: Model, number: int, logprob: float) -> dict[str, Any]:
    return {"token": model.tokenizer.decode([number], special=True), "id": number, "logprob": logprob}


def keep(picture: "Image", name: str) -> Path:
    """Writes a picture to the first of NAME-1.png, NAME-2.png, ... that is not there; its path."""
    place = next(place for i in count(1) if not (place := Path(f"{name}-{i}.png")).exists())
    place.write_bytes(png(picture))
    return place


def data_url(picture: Any) -> str:
    """A picture, PIL image or bytes, for JSON."""
    return f"data:image/png;base64,{b64encode(png(decode(encoded(picture)))).decode()}"


def stream(model: Model, task: str, example: Mapping[str, Any], sampling: Mapping[str, Any]) -> Iterator[str]:
    """An answer as it is written."""
    return model.stream(task, example, **sampling)
