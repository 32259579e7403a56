"""Addresses of the OpenAI API that no model here can serve yet."""

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.serving.refusal import Refusal

router = APIRouter()


@router.api_route("/v1/audio/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
@router.api_route("/v1/images/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def reserved(http: HttpRequest, rest: str) -> Response:
    kind = "sounds" if "/audio/" in http.url.path else "pictures"
    raise Refusal(501, f"No model of this server reads or makes {kind}.", code="not_implemented")
