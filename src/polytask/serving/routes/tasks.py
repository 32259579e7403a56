"""/v1/tasks: whatever a model can be asked, by the task's own fields."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, get_args, get_origin

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.scoring import probabilities
from polytask.inference.sequence import Completion, Request
from polytask.serving.asking import answer, new_id, note, note_prompt, now, streamed, submit, usage
from polytask.serving.drawing import DIFFUSION, Asked, Diffusing, b64, finish, paint
from polytask.serving.logprobs import chat_logprobs
from polytask.serving.opening import expect_side, opening, sent, shrunk, small
from polytask.serving.refusal import Json, about, unknown
from polytask.serving.schema import MOST, STREAMED, Dials, Named, expect, sampling
from polytask.serving.shelf import DIFFUSED, Served, ServedMatcher, ServedPictures, Shelf, Shelved
from polytask.serving.stream import DONE, EventStream, event, while_there
from polytask.serving.worker import Job
from polytask.tasks import TASKS, Segment, Task, Text, check, prompt
from polytask.tasks.picture import Picture, png
from polytask.tasks.scoring import written
from polytask.tasks.task import Asking, draws

router = APIRouter()
NOTHING = {  # tokens of what reads none
    "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0},
}  # fmt: skip
MOST_LABELS = 512  # among which one request may have a model choose
VERBS = {
    "generate": "text", "translate": "translation", "answer": "answering", "summarize": "summarization",
    "classify": "classification", "infill": "infilling", "caption": "captioning", "draw": "drawing", "edit": "editing",
}  # fmt: skip


class TaskBody(Named, Dials, Diffusing):
    """An example of the task, without its answer; `shots` are solved ones to learn from on the spot."""

    ELSEWHERE: ClassVar[str] = "The task's own fields belong in 'example'."
    example: dict[str, Any]
    shots: Annotated[list[dict[str, Any]], Field(max_length=1000, fail_fast=True)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None


@router.get("/v1/tasks")
async def tasks(http: HttpRequest, model: str | None = None) -> Response:
    """The tasks of a model, with their fields."""
    shelf: Shelf = http.app.state.shelf
    served = shelf.get(model)
    data = [_described(served, name) for name in served.tasks]
    return Json({"object": "list", "model": served.name, "data": data})


@router.post("/v1/tasks/{name}", responses=STREAMED)
async def ask(http: HttpRequest, name: str, body: TaskBody) -> Response:
    """The answer to an example. Where the answers are a given set, each comes with its probability."""
    served, own = _find(http, body.model, name, body.example)
    note(http, task=own)
    note_prompt(http, _told(served, own, body.example))
    frame = {"id": new_id("task"), "created": now(), "model": served.name, "task": own}
    if isinstance(served, ServedPictures):
        return await _paint(http, served, own, body, frame)
    if isinstance(served, ServedMatcher):
        return await _match(http, served, own, body, frame)
    assert isinstance(served, Served)
    for dial in DIFFUSION:
        expect(
            getattr(body, dial) is None, f"'{dial}': '{served.name}' does not draw by diffusion; leave it out.", dial
        )
    task = served.asking(own)
    told = not body.logprobs or not draws(task)
    expect(told, "'logprobs': a picture is no text and comes without them; leave it out.", "logprobs")
    body.example, *shots = await _opened(served, task, [body.example, *(body.shots or ())], body.resize)
    body.shots = shots
    with about("example"):
        choices = task.choices(check(task, body.example))
    if choices:
        return await _choose(http, served, task, body, choices, frame)
    chance = {"temperature": 1.0} if draws(task) and body.temperature is None else {}
    dials = sampling(served, task, body, body.max_tokens or 256, logprobs=body.logprobs or 0, **chance)

    def build() -> list[Request]:
        return [served.model.request(_asked(served, task, body), dials)]

    with about("example"):
        if body.stream:
            job = await submit(http, served, build, body.priority)
            return streamed(http, served, job, _events(http, served, task, body, job, frame), "example")
        requests, written = await answer(http, served, build, body.priority)
    if draws(task):
        await finish(http, served, written)
    answers = [_answer(served, task, body, index, one) for index, one in enumerate(written)]
    return Json({**frame, "object": "task.answer", "answers": answers, "usage": usage(requests, written)})


def _find(http: HttpRequest, model: str | None, name: str, example: Mapping[str, Any]) -> tuple[Shelved, str]:
    """A model that can be asked a task, and what the task is called there. Raises Refusal."""
    shelf: Shelf = http.app.state.shelf
    known = {*VERBS, *TASKS, *DIFFUSED, *(task for each in shelf for task in each.tasks)}
    if name not in known:
        raise unknown("task", name, known, "name")

    def own(each: Shelved) -> str:
        return name if name in each.tasks else VERBS.get(name, name)

    def able(each: Shelved) -> bool:
        return own(each) in each.tasks

    def fits(each: Shelved) -> bool:
        """Whether it takes a picture where there is one, and none where there is none."""
        if example.get("image") is None:
            return not isinstance(each, ServedMatcher)
        return each.about["pixels"] is not None or "image" not in each.asking(own(each)).fields

    fitting = next((each.name for each in shelf if able(each) and fits(each)), None)
    served = shelf.able(model or fitting, able, f"knows the task '{name}'")
    note(http, model=served.name)
    return served, own(served)


def _told(served: Shelved, task: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """An example for the log, which holds no pictures."""
    pictures = {name for name, field in served.asking(task).fields.items() if field.type is Picture}
    return {name: "[picture]" if name in pictures else value for name, value in example.items()}


async def _opened(
    served: Served, task: Task, examples: list[dict[str, Any]], resize: bool | None
) -> list[dict[str, Any]]:  # fmt: skip
    """Examples, the first one asked and the others solved, with their pictures as small files. Raises Refusal."""
    wheres = ["example", *(f"shots[{number}]" for number in range(len(examples) - 1))]
    places = [
        (example, name, f"{where}.{name}")
        for where, example in zip(wheres, examples)
        for name, field in task.fields.items()
        if field.type is Picture and example.get(name) is not None
    ]
    files = [(param, sent(example[name], param)) for example, name, param in places]
    if files and draws(task) and resize is not True and served.about["pixels"] is not None:
        await opening(lambda: [expect_side(data, served.about["pixels"], param) for param, data in files])
    opened = {param: data for (param, _), data in zip(files, await small(served, files))}
    return [
        example | {name: opened[param] for name in task.fields if (param := f"{where}.{name}") in opened}
        for where, example in zip(wheres, examples)
    ]


def _asked(served: Served, task: Task, body: TaskBody) -> list[Segment]:
    asked = prompt(task, body.example, body.shots or ())
    served.expect_short(*(segment.text for segment in asked if isinstance(segment, Text)))
    return asked


async def _paint(
    http: HttpRequest, served: ServedPictures, task: str, body: TaskBody, frame: dict[str, Any]
) -> Response:  # fmt: skip
    """The answer of a model that draws by diffusion."""
    for name in (*Dials.model_fields, "max_tokens", "logprobs"):
        expect(
            name in ("n", "seed") or getattr(body, name) is None,
            f"'{name}': '{served.name}' draws by diffusion; leave it out.",
            name,
        )
    expect(not body.shots, f"'shots': '{served.name}' learns nothing on the spot; leave them out.", "shots")
    expect((body.n or 1) <= MOST, f"'n': {MOST} pictures are the most of a request.", "n", None)
    expect((body.seed or 0) >= 0, "'seed': a model that draws by diffusion takes seeds from 0 on.", "seed", None)
    example = _checked(served, task, body)
    said = "instruction" if example.get("instruction") else "caption"
    files = example.get("image") or b"", example.get("mask")
    more = {"towards": example.get("towards"), "before": example.get("from"), "after": example.get("to")}
    asked = Asked(example.get(said) or "", *files, **more, where="example.", said=f"example.{said}")
    drawn = await paint(http, served, task, asked, body, body.n, body.seed)
    answers = [_plain(index, b64(picture)) for index, picture in enumerate(drawn.pictures)]
    return _whole(http, body, frame, answers)


async def _match(
    http: HttpRequest, served: ServedMatcher, task: str, body: TaskBody, frame: dict[str, Any]
) -> Response:  # fmt: skip
    """The label that a CLIP chooses, with the probability of each."""
    for name in (*Dials.model_fields, *DIFFUSION, "max_tokens", "logprobs", "shots"):
        expect(
            getattr(body, name) is None,
            f"'{name}': '{served.name}' chooses among labels and writes nothing; leave it out.",
            name,
        )
    example, model = _checked(served, task, body), served.model
    labels = example["labels"]
    if example.get("templates"):
        model = replace(model, templates=example["templates"])
    many = len(labels) * len(model.templates)
    expect(many <= MOST_LABELS, f"'example.labels': {MOST_LABELS} texts are the most of a request, and these are "
           f"{many}.", "example.labels", None)  # fmt: skip
    with about("example.labels"):
        for template in model.templates:  # each of its texts is read by itself
            served.expect_short(template.replace("{}", max(labels, key=len, default="")))
    picture = await opening(lambda: shrunk(example["image"], model.matcher.side, "example.image"))

    async def shares() -> dict[str, float]:
        async with served.worker.admitted():
            with about("example.labels"):
                return await served.worker.run(lambda: model.probabilities([picture], labels)[0])

    found = await while_there(http, shares())
    answers = [{**_plain(0, max(found, key=found.__getitem__)), "probabilities": found}]
    return _whole(http, body, frame, answers)


def _checked(served: Shelved, task: str, body: TaskBody) -> dict[str, Any]:
    """The example with the files of its pictures. Raises TaskError and Refusal."""
    asking = served.asking(task)
    files = {
        name: sent(value, f"example.{name}")
        for name, value in body.example.items()
        if name in asking.fields and asking.fields[name].type is Picture and value is not None
    }
    with about("example"):
        return check(asking, {**body.example, **files})


def _described(served: Shelved, name: str) -> dict[str, Any]:
    verb = next((verb for verb, own in VERBS.items() if own == name and verb not in served.tasks), name)
    if not isinstance(served, Served):
        return {"name": name, "path": f"/v1/tasks/{verb}", "fields": _fields(served.asking(name)), "choices": None,
                "metrics": [], "own": False}  # fmt: skip
    task = served.asking(name)
    choices = task.choices({key: "" for key, field in task.fields.items() if field.required})
    named = [written(one) for one in choices] if choices else None
    return {"name": name, "path": f"/v1/tasks/{verb}", "fields": _fields(task), "choices": named,
            "metrics": list(task.metric_names), "own": name in served.model.tasks}  # fmt: skip


def _fields(task: Asking) -> dict[str, Any]:
    return {
        key: {"type": _type(field.type), "required": field.required, "help": field.help, "answer": field.answer}
        for key, field in task.fields.items()
    }


def _type(kind: Any) -> str:
    return f"list[{get_args(kind)[0].__name__}]" if get_origin(kind) is list else kind.__name__.lower()


def _answer(served: Served, task: Task, body: TaskBody, index: int, one: Completion) -> dict[str, Any]:
    value, top = task.parse([one.segment]), body.logprobs
    value = b64(png(value)) if draws(task) else value
    logprobs = chat_logprobs(served.model.tokenizer.writing, zip(one.ids, one.logprobs or []), top) if top else None
    return {**_plain(index, value), "finish_reason": one.finish, "logprobs": logprobs}


def _plain(index: int, value: Any) -> dict[str, Any]:
    return {"index": index, "answer": value, "finish_reason": "stop", "probabilities": None, "logprobs": None}


async def _choose(
    http: HttpRequest, served: Served, task: Task, body: TaskBody, choices: list[list[Segment]], frame: dict[str, Any]
) -> Response:  # fmt: skip
    for name in ("n", "logprobs"):
        alone = f"'{name}': one of the given choices is taken, with the probability of each; leave it out."
        expect(getattr(body, name) in (None, 0, 1), alone, name)
    expect(len(choices) <= MOST_LABELS, f"'example': {MOST_LABELS} choices are the most of a request, and these are "
           f"{len(choices)}.", "example", None)  # fmt: skip

    def build() -> list[Request]:
        return [served.model.weighing(_asked(served, task, body), choices)]

    with about("example"):
        requests, scored = await answer(http, served, build, body.priority)
    shares = probabilities([one.score for one in scored])
    best = max(range(len(choices)), key=shares.__getitem__)
    named = {written(one): share for one, share in zip(choices, shares)}
    answers = [{**_plain(0, task.parse(choices[best])), "probabilities": named}]
    return _whole(http, body, frame, answers, usage(requests, scored))


def _whole(
    http: HttpRequest, body: TaskBody, frame: dict[str, Any], answers: list[dict[str, Any]],
    total: Mapping[str, Any] = NOTHING,
) -> Response:  # fmt: skip
    """Answers that come at once, in a stream too. total: tokens."""
    whole = {**frame, "answers": answers, "usage": total}
    if not body.stream:
        return Json({**whole, "object": "task.answer"})

    async def events() -> AsyncIterator[bytes]:
        yield event({**whole, "object": "task.answer.chunk"})
        yield DONE

    return EventStream(events(), http.app.state.settings.stall, lambda: None)


async def _events(
    http: HttpRequest, served: Served, task: Task, body: TaskBody, job: Job, frame: dict[str, Any]
) -> AsyncIterator[bytes]:
    """Pieces of text, then each answer as the task reads it."""
    frame, completions = {**frame, "object": "task.answer.chunk"}, dict[int, Completion]()
    async for piece in job:
        if piece.text:
            yield event({**frame, "index": piece.index, "text": piece.text})
        if piece.completion is not None:
            completions[piece.index] = piece.completion
    if draws(task):
        await finish(http, served, list(completions.values()))
    answers = [_answer(served, task, body, index, completions[index]) for index in sorted(completions)]
    total = usage(job.requests, list(completions.values()))
    note(http, **total)
    yield event({**frame, "answers": answers, "usage": total})
    yield DONE
