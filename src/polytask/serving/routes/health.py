"""/health, /ready and /metrics."""

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from polytask.serving.refusal import Json

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(http: HttpRequest) -> Response:
    """200 while all models run; 503 where one's thread has ended."""
    dead = [served.name for served in http.app.state.shelf if not served.worker.alive]
    return Json({"status": "failed", "models": dead} if dead else {"status": "ok"}, 503 if dead else 200)


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(http: HttpRequest) -> Response:
    """200 while requests are welcome; 503 once the server is about to stop."""
    draining = http.app.state.life.draining
    return Json({"ready": not draining, "running": http.app.state.life.running - 1}, 503 if draining else 200)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(http: HttpRequest) -> Response:
    """Figures for Prometheus."""
    text = await asyncio.to_thread(http.app.state.figures.text)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
