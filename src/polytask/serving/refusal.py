"""What is said to a client whose request cannot be done: one sentence in the form of the OpenAI API."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from polytask.errors import ConfigError, Error, MissingExtra, SamplingError, TaskError, TooLong
from polytask.registry import nearest

# What clients call what the rooms below call otherwise, where a route does not say it.
NAMES = {"guide": "response_format"}
AGAIN = {"x-should-retry": "false"}  # asking again is of no use, which OpenAI's clients take from this alone
UNKNOWN = "unknown_field"  # a kind of error of pydantic's, of our own
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Error):
    """An answer with an error's status. param: the field that is wrong; code: what programs go by."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status) or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def noted(self) -> dict[str, Any]:
        """What the line of the log says of it."""
        said = {"error": self.code, "param": self.param and self.param[:100]}
        return {name: value for name, value in said.items() if value is not None}

    def response(self) -> "Refused":
        return Refused(self)


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """What every error looks like."""

    error: ErrorBody


class Json(Response):
    """JSON that is written whatever a client or a model made of its texts."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return written(content)


class Refused(Json):
    """A refusal on its way; the line of the log says the code and the field of what was refused."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.body(), refusal.status, refusal.headers)
        self.noted = refusal.noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.get("state", {}).get("note", {}).update(self.noted)
        await super().__call__(scope, receive, send)


def written(content: Any) -> bytes:
    """JSON in UTF-8; half a character (a lone surrogate) becomes a question mark."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def of_error(error: Error, prompt: str | None = None, names: Mapping[str, str] = NAMES) -> Refusal:
    """A mistake that the rooms below found in a request. prompt: the field that holds its text or its example."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, SamplingError):  # the network's fault, not the request's
        return Refusal(500, str(error), code="sampling_failed")
    if isinstance(error, TooLong):
        return Refusal(400, str(error).replace(error.way, ""), param=prompt, code="context_length_exceeded")
    if isinstance(error, ConfigError) and error.field is not None:
        return _wrong(error.field, str(error), names)
    status = 501 if isinstance(error, MissingExtra) else 400
    return Refusal(status, str(error), param=prompt if isinstance(error, TaskError) else None)


def _wrong(field: str, message: str, names: Mapping[str, str]) -> Refusal:
    """Of a dial, in the client's words."""
    param = names.get(field, field)
    begin, _, rest = message.partition(": ")
    if begin == "sampling":  # what follows quotes no text of a client's, which must stay as it is
        rest = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), rest)
    return Refusal(400, f"'{param}': {rest if begin in ('sampling', 'drawing', field) else message}", param=param)


@contextmanager
def about(prompt: str, **names: str) -> Iterator[None]:
    """What is wrong with an example, a text or a dial becomes a Refusal that names its field. names: of dials that the
    route calls otherwise."""
    try:
        yield
    except (ConfigError, TaskError) as error:
        raise of_error(error, prompt, NAMES | names) from None


async def on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, Error)
    return of_error(error).response()


async def on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        400: "The body is not JSON in UTF-8.",
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
    }
    return Refusal(
        error.status_code, words.get(error.status_code, f"{error.detail}."), headers=error.headers
    ).response()


async def on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return Refusal(400, "The body is not JSON.").response()
    if not isinstance(error.body, dict) and found[0]["loc"][0] == "body":
        return Refusal(400, "The body must be a JSON object.").response()
    where = [_path(one, error.body) for one in found]
    # Of the kinds that a field may have, the one that went furthest into the value, or is of its type, was meant.
    first = max(range(len(found)), key=lambda i: (len(where[i]), not found[i]["type"].endswith("_type"), -i))
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where[first]).lstrip(".")
    message = f"'{param}': {found[first]['msg']}."
    if found[first]["type"] == UNKNOWN:
        message = f"Unrecognized request argument '{param}'; {found[first]['msg']}"
    return Refusal(400, message, param=param).response()


def _path(found: Mapping[str, Any], body: Any) -> list[Any]:
    """The part of an error's place that is in the body; the rest names the kinds that were tried."""
    loc, path = found["loc"], list[Any]()
    for step in loc[1:]:
        inside = isinstance(body, dict) and step in body
        inside = inside or (isinstance(body, list) and isinstance(step, int) and step < len(body))
        if inside:
            body = body[step]
            path.append(step)
    if found["type"] == UNKNOWN:
        return [*path, found["ctx"]["name"]]
    return [*path, loc[-1]] if found["type"] == "missing" else path


def unknown(what: str, name: str, names: Any, param: str) -> Refusal:
    """404 with the nearest name."""
    return Refusal(404, f"There is no {what} '{name[:100]}': {nearest(name[:100], names)}", param=param,
                   code=f"{what}_not_found")  # fmt: skip


def late(seconds: float) -> Refusal:
    return Refusal(504, f"The answer took more than the {seconds:g} seconds that this server gives a request; ask for "
                        "fewer tokens, or fewer pictures and steps.", code="timeout")  # fmt: skip
