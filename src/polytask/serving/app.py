"""The app: routes behind a gate, over a shelf of models."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from polytask import runtime
from polytask.errors import Error
from polytask.serving.gate import Gate
from polytask.serving.metrics import Figures, Gauge
from polytask.serving.page import add_page
from polytask.serving.refusal import ErrorAnswer, on_error, on_http, on_invalid
from polytask.serving.settings import Settings
from polytask.serving.shelf import Loaded, Shelf

ROUTES = ("models", "chat", "completions", "responses", "embeddings", "images", "tasks", "health")
# FastAPI can send traces and figures to a collector; nothing here leaves the machine, whatever the environment says.
QUIET: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


@dataclass
class Life:
    """Whether the server is about to stop, and how many requests are inside."""

    draining: bool = False
    running: int = 0


def create_app(models: Mapping[str, Loaded], settings: Settings | None = None) -> FastAPI:
    """An ASGI app that serves these models by their names. Its workers run until `app.state.shelf.close()`."""
    settings, figures = settings or Settings(), Figures()
    app = FastAPI(
        title="polytask", version=runtime.version() or "unknown", docs_url=None, redoc_url=None, telemetry=QUIET,
        lifespan=_lifespan, responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}},
    )  # fmt: skip
    app.state.settings, app.state.figures, app.state.life = settings, figures, Life()
    app.state.shelf = shelf = Shelf(models, settings, figures)
    figures.gauges += _gauges(shelf)
    for name in ROUTES:
        app.include_router(import_module(f"polytask.serving.routes.{name}").router)
    add_page(app)
    app.add_exception_handler(Error, on_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    guard(app)
    return app


def guard(app: Starlette) -> None:
    """Lays the gate around an app whose state has settings, figures and a life."""
    app.add_middleware(Gate, settings=app.state.settings, figures=app.state.figures)
    if app.state.settings.cors:  # outside of the gate: a page must be let read what the gate refuses
        app.add_middleware(
            CORSMiddleware, allow_origins=app.state.settings.cors, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["x-request-id"],
        )  # fmt: skip


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.shelf.close()


GAUGES = {
    "running": "Requests that are being answered.",
    "waiting": "Requests that wait.",
    "total_blocks": "Blocks of the key/value cache.",
    "free_blocks": "Blocks of the key/value cache that no request holds.",
    "cache_tokens": "Tokens that the key/value cache holds at most.",
    "cache_bytes": "Bytes of the key/value cache.",
    "weight_bytes": "Bytes of weights.",
    "hit_tokens": "Tokens that were found in the cache and not run again.",
    "run_tokens": "Tokens that were run.",
    "preemptions": "Requests that had to give their blocks to others.",
}  # what `Shelved.stats` tells, each kind of model its own


def _gauges(shelf: Shelf) -> list[Gauge]:
    def values(name: str) -> Callable[[], dict[str, float]]:
        return lambda: {each.name: float(stats[name]) for each in shelf if name in (stats := each.stats())}

    return [Gauge(f"polytask_{name}", help, values(name)) for name, help in GAUGES.items()]
