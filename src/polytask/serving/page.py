"""The playground at `/`: static files, sent with a policy that lets the page ask this server and nobody else."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks whether a file has changed, so that a new version is seen at once
}


def add_page(app: "FastAPI") -> None:
    """Serves the page at `/` and its files under `/static`."""
    from fastapi.responses import FileResponse
    from starlette.staticfiles import StaticFiles

    class Files(StaticFiles):
        def file_response(self, *args, **words):
            response = super().file_response(*args, **words)
            response.headers.update(HEADERS)
            return response

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=HEADERS)

    app.mount("/static", Files(directory=STATIC), name="static")
