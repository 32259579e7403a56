"""/v1/tasks: whatever a model can be asked, by the task's own fields."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args, get_origin

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.scoring import probabilities
from polytask.inference.sequence import Completion, Request
from polytask.serving.asking import answer, find, new_id, note, note_prompt, now, streamed, submit, usage
from polytask.serving.logprobs import chat_logprobs
from polytask.serving.refusal import Json, unknown
from polytask.serving.schema import STREAMED, Dials, Named, sampling
from polytask.serving.shelf import Served
from polytask.serving.stream import DONE, EventStream, event, while_there
from polytask.serving.writer import WritingJob
from polytask.tasks import TASKS, Segment, Task, Text, check, prompt
from polytask.tasks.scoring import written
from polytask.tasks.segment import texts

router = APIRouter()
VERBS = {
    "generate": "text", "translate": "translation", "answer": "answering", "summarize": "summarization",
    "classify": "classification", "infill": "infilling",
}  # fmt: skip


class TaskBody(Named, Dials):
    """An example of the task, without its answer; `shots` are solved ones to learn from on the spot."""

    example: dict[str, Any]
    shots: Annotated[list[dict[str, Any]], Field(max_length=1000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None


@router.get("/v1/tasks")
async def tasks(http: HttpRequest, model: str | None = None) -> Response:
    """The tasks of a model, with their fields."""
    served = find(http, model)
    data = [_described(served, name) for name in served.model.able]
    return Json({"object": "list", "model": served.name, "data": data})


@router.post("/v1/tasks/{name}", responses=STREAMED)
async def ask(http: HttpRequest, name: str, body: TaskBody) -> Response:
    """The answer to an example. Where the answers are a given set, each comes with its probability."""
    served = find(http, body.model)
    task = _find(served, name)
    note(http, task=task.name)
    note_prompt(http, body.example)
    frame = {"id": new_id("task"), "created": now(), "model": served.name, "task": task.name}
    choices = task.choices(check(task, body.example))
    if choices:
        return await _choose(http, served, task, body, choices, frame)
    dials = sampling(served, task, body, body.max_tokens or 256, logprobs=body.logprobs or 0)

    def build() -> list[Request]:
        asked = prompt(task, body.example, body.shots or ())
        served.expect_short(*(segment.text for segment in texts(asked)))
        return [served.model.request(asked, dials)]

    if body.stream:
        job = await submit(http, served, build)
        return streamed(http, served, job, _events(http, served, task, body, job, frame))
    requests, written = await answer(http, served, build)
    answers = [_answer(served, task, body, index, one) for index, one in enumerate(written)]
    return Json({**frame, "object": "task.answer", "answers": answers, "usage": usage(requests, written)})


def _find(served: Served, name: str) -> Task:
    own = VERBS.get(name, name) if name not in served.model.tasks else name
    if own not in served.model.tasks and own not in TASKS:
        raise unknown("task", name, [*VERBS, *TASKS, *served.model.tasks], "name")
    return served.model.task(own)


def _described(served: Served, name: str) -> dict[str, Any]:
    task = served.model.task(name)
    fields = {
        key: {"type": _type(field.type), "required": field.required, "help": field.help, "answer": field.answer}
        for key, field in task.fields.items()
    }
    verb = next((verb for verb, own in VERBS.items() if own == name and verb not in served.model.tasks), name)
    choices = task.choices({key: "" for key, field in task.fields.items() if field.required})
    named = [written(one) for one in choices] if choices else None
    return {"name": name, "path": f"/v1/tasks/{verb}", "fields": fields, "choices": named,
            "metrics": list(task.metric_names), "own": name in served.model.tasks}  # fmt: skip


def _type(kind: Any) -> str:
    return f"list[{get_args(kind)[0].__name__}]" if get_origin(kind) is list else kind.__name__.lower()


def _answer(served: Served, task: Task, body: TaskBody, index: int, one: Completion) -> dict[str, Any]:
    value, top = task.parse([Text(one.text, target=True)]), body.logprobs
    logprobs = chat_logprobs(served.model.tokenizer.writing, zip(one.ids, one.logprobs or []), top) if top else None
    return {"index": index, "answer": value, "finish_reason": one.finish, "probabilities": None, "logprobs": logprobs}


async def _choose(
    http: HttpRequest, served: Served, task: Task, body: TaskBody, choices: list[list[Segment]], frame: dict[str, Any]
) -> Response:  # fmt: skip
    def build() -> list[Segment]:
        asked = prompt(task, body.example, body.shots or ())
        served.expect_short(*(segment.text for segment in texts(asked)))
        return asked

    model, asked = served.model, await asyncio.to_thread(build)
    scores = await while_there(http, served.worker.call(lambda: model.score([asked] * len(choices), choices)))
    shares = probabilities(scores)
    best = max(range(len(choices)), key=shares.__getitem__)
    named = {written(one): share for one, share in zip(choices, shares)}
    answers = [
        {
            "index": 0,
            "answer": task.parse(choices[best]),
            "finish_reason": "stop",
            "probabilities": named,
            "logprobs": None,
        },
    ]
    read = sum(score.tokens for score in scores)
    total = {"prompt_tokens": read, "completion_tokens": 0, "total_tokens": read}
    whole = {**frame, "answers": answers, "usage": total}
    if not body.stream:
        return Json({**whole, "object": "task.answer"})

    async def events() -> AsyncIterator[bytes]:
        yield event({**whole, "object": "task.answer.chunk"})
        yield DONE

    return EventStream(events(), http.app.state.settings.stall, lambda: None)


async def _events(
    http: HttpRequest, served: Served, task: Task, body: TaskBody, job: WritingJob, frame: dict[str, Any]
) -> AsyncIterator[bytes]:
    """Pieces of text, then each answer as the task reads it."""
    frame, completions = {**frame, "object": "task.answer.chunk"}, dict[int, Completion]()
    async for piece in job:
        if piece.text:
            yield event({**frame, "index": piece.index, "text": piece.text})
        if piece.completion is not None:
            completions[piece.index] = piece.completion
    answers = [_answer(served, task, body, index, completions[index]) for index in sorted(completions)]
    total = usage(job.requests, list(completions.values()))
    note(http, **total)
    yield event({**frame, "answers": answers, "usage": total})
    yield DONE
