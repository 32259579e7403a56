"""/v1/models."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.serving.asking import find
from polytask.serving.refusal import Json
from polytask.serving.shelf import Served

router = APIRouter()


@router.get("/v1/models")
async def models(http: HttpRequest) -> Response:
    """The models that this server holds."""
    return Json({"object": "list", "data": [_described(served) for served in http.app.state.shelf]})


@router.get("/v1/models/{name:path}")
async def model(http: HttpRequest, name: str) -> Response:
    """One of them."""
    return Json(_described(find(http, name)))


def _described(served: Served) -> dict[str, Any]:
    info = served.model.info
    return {
        "id": served.name, "object": "model", "created": served.created, "owned_by": "polytask",
        "max_model_len": served.model.engine.length, "parameters": info["parameters"], "tasks": info["tasks"],
    }  # fmt: skip
