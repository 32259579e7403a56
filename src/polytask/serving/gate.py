"""What every request passes before a route sees it: its name in the log, its key, its size, its shape.

The whole body is read here, with a bound on its bytes, on how deep it is nested and on how long it may take to come, so
that nothing behind sees a body that could hurt.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polytask.serving.host import expect_own
from polytask.serving.log import REQUESTS, stamp
from polytask.serving.metrics import Figures
from polytask.serving.refusal import AGAIN, Refusal
from polytask.serving.settings import Settings

LOG = logging.getLogger(REQUESTS)
DEPTH = 100  # brackets within each other in a body of JSON
ARRIVAL = 30.0  # seconds for a body to come
FORMS = ("/v1/images/edits", "/v1/images/variations")
PROTECTED = ("/v1/", "/metrics")
IN_ADDRESS = {"key", "api_key", "apikey", "api-key", "token", "access_token", "authorization"}
IDENTITY = re.compile(r"[A-Za-z0-9._-]{1,128}")
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive, and with or without its end: linear in any body
BRACKETS = np.zeros(256, np.int8)  # a step deeper or back for each byte
BRACKETS[[*b"[{"]], BRACKETS[[*b"]}"]] = 1, -1


class Gate:
    """The outermost layer of the app; `running` is how many requests are inside."""

    def __init__(self, app: ASGIApp, settings: Settings, figures: Figures):
        self.app, self.settings, self.figures = app, settings, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        given = headers.get("x-request-id", "")
        identity = given if IDENTITY.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        began, status = time.monotonic(), 0
        state = scope.setdefault("state", {})
        state["identity"], state["note"] = identity, {}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", identity.encode())]
            await send(message)

        life = scope["app"].state.life
        life.running += 1
        try:
            try:
                if scope["path"].startswith("/v1/") and life.draining:
                    raise Refusal(503, "The server is about to stop; ask another one.", code="draining",
                                  headers={"Retry-After": "1", "Connection": "close"})  # fmt: skip
                self._check(scope, headers)
                inside = await self._read(scope, headers, receive)
            except Refusal as refusal:
                await refusal.response()(scope, receive, answer)
                return
            await self.app(scope, inside, answer)
        except Exception:
            LOG.exception("Request %s failed.", identity)
            if status:
                raise
            refusal = Refusal(500, f"The server failed at this request; its log says more of {identity}.")
            await refusal.response()(scope, receive, answer)
        finally:
            life.running -= 1
            self._note(scope, status, time.monotonic() - began)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if self.settings.keys is None:  # where there are keys, a page of a stranger has none
            expect_own(headers.get("host", ""), self.settings.hosts)
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        if any(name.lower() in IN_ADDRESS for name, _ in query):
            raise Refusal(400, "A key belongs into the header 'Authorization: Bearer KEY', never into the address, "
                               "which others log.", code="key_in_address")  # fmt: skip
        if self.settings.keys is not None and scope["path"].startswith(PROTECTED) and scope["method"] != "OPTIONS":
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not self.settings.keys.allow(key.strip()):
                said = "This server takes a key" if not key else "This key is not known"
                raise Refusal(401, f"{said}; send 'Authorization: Bearer KEY'.", code="invalid_api_key",
                              headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
        if scope["path"].startswith("/v1/audio/"):  # said before the body is read: sounds are large, and no JSON
            raise Refusal(501, "No model of this server reads or makes sounds.", code="not_implemented", headers=AGAIN)

    async def _read(self, scope: Scope, headers: dict[str, str], receive: Receive) -> Receive:
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        if scope["app"].state.life.running > self.settings.connections:
            raise Refusal(503, f"The server has {self.settings.connections} requests at hand; try again later.",
                          code="busy", headers={"Retry-After": "1", "Connection": "close"})  # fmt: skip
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:18]) > self.settings.body:
            raise self._large()
        try:
            async with asyncio.timeout(ARRIVAL):
                body = await self._whole(receive)
        except TimeoutError:
            raise Refusal(408, f"The body did not come within {ARRIVAL:.0f} seconds.") from None
        if scope["path"].startswith("/v1/"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            wanted = "multipart/form-data" if scope["path"] in FORMS else "application/json"
            if body and kind != wanted:
                raise Refusal(415, f"The body must be 'Content-Type: {wanted}', not '{kind[:50]}'.")
            if kind != "application/json":
                self._expect_known(headers)
            elif _depth(body) > DEPTH:
                raise Refusal(400, f"The body is nested deeper than {DEPTH} brackets.", code="too_deep")
        messages = _again(body)

        async def inside() -> Message:
            return next(messages, None) or await receive()

        return inside

    def _expect_known(self, headers: dict[str, str]) -> None:
        """Raises Refusal for a form of a page of another origin: browsers send those without asking the server."""
        origin, host = headers.get("origin"), headers.get("host")
        own = headers.get("sec-fetch-site") == "same-origin" or (origin or "").partition("://")[2] == host
        if origin is not None and not own and not {origin, "*"} & set(self.settings.cors):
            raise Refusal(403, "Forms of pages of another origin are taken where --cors names that origin.",
                          code="unknown_origin")  # fmt: skip

    async def _whole(self, receive: Receive) -> bytes:
        pieces, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "The client left before its body had come.")
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
            if size > self.settings.body:
                raise self._large()
        return b"".join(pieces)

    def _large(self) -> Refusal:
        return Refusal(413, f"The body is larger than the {self.settings.body:,.0f} bytes that this server takes.",
                       code="body_too_large", headers={"Connection": "close"})  # fmt: skip

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE") else "other"
        self.figures.ended(route, method, status or 499, seconds)
        line: dict[str, Any] = {
            "time": stamp(time.time()), "request": scope["state"]["identity"],
            "method": method, "path": scope["path"][:200], "status": status or 499, "seconds": round(seconds, 4),
            **scope["state"]["note"],
        }  # fmt: skip
        LOG.info(json.dumps(line))


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _again(body: bytes) -> Iterator[Message]:
    yield {"type": "http.request", "body": body, "more_body": False}


def _depth(body: bytes) -> int:
    """How deep brackets lie within each other, outside of strings."""
    steps = BRACKETS[np.frombuffer(STRING.sub(b"", body), np.uint8)]
    return int(steps.cumsum(dtype=np.int32).max(initial=0))
