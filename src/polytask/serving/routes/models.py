"""/v1/models."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.serving.refusal import Json
from polytask.serving.shelf import Shelf, Shelved

router = APIRouter()


@router.get("/v1/models")
async def models(http: HttpRequest) -> Response:
    """The models that this server holds."""
    return Json({"object": "list", "data": [_described(shelved) for shelved in http.app.state.shelf]})


@router.get("/v1/models/{name:path}")
async def model(http: HttpRequest, name: str) -> Response:
    """One of them."""
    shelf: Shelf = http.app.state.shelf
    return Json(_described(shelf.get(name)))


def _described(shelved: Shelved) -> dict[str, Any]:
    return {
        "id": shelved.name, "object": "model", "created": shelved.created, "owned_by": "polytask",
        "labels": [], "steps": None, **shelved.about, "tasks": shelved.tasks,
    }  # fmt: skip
