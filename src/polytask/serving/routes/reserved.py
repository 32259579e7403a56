"""Addresses of the OpenAI API that no model here can serve yet."""

from fastapi import APIRouter
from starlette.responses import Response

from polytask.serving.refusal import Refusal

router = APIRouter()


@router.api_route("/v1/audio/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def reserved(rest: str) -> Response:
    raise Refusal(501, "No model of this server reads or makes sounds.", code="not_implemented")
