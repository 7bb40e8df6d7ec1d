"""``/healthz``, ``/readyz``, ``/metrics`` (Prometheus), and ``/repo`` (static, signed files)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse

from contracts.errors import InputError
from fleet.api import models, prometheus
from fleet.api.auth import TheController, Viewer
from fleet.api.readers import Reader
from fleet.repository import paths

ROUTER = APIRouter()


@ROUTER.get("/healthz", tags=["operations"])
def healthz() -> models.Health:
    """The process lives."""
    return models.Health(status="ok")


@ROUTER.get(
    "/readyz",
    tags=["operations"],
    responses={503: {"model": models.Ready, "description": "something needed is not there"}},
)
def readyz(controller: TheController, response: Response) -> models.Ready:
    """The process can do its work: the database has its schema, the broker is connected."""
    parts = controller.ready
    ready = all(parts.values())
    response.status_code = 200 if ready else 503
    return models.Ready(ready=ready, parts=parts)


@ROUTER.get(
    "/metrics",
    tags=["operations"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def metrics(controller: TheController, _token: Viewer) -> Response:
    """The controller's figures for Prometheus."""
    return Response(prometheus.render(controller), media_type=prometheus.CONTENT_TYPE)


@ROUTER.api_route(
    "/repo/{path:path}",
    methods=["GET", "HEAD"],
    include_in_schema=False,
)
def repository_file(
    controller: TheController,
    public: Reader,
    path: Annotated[str, Path(max_length=300)],
) -> Response:
    """A file of the signed repository, for devices and tokens; ranges are served."""
    file = controller.repository.folder / paths.check(path)
    if file.is_symlink() or not file.is_file():
        raise InputError("no-such-path", f"the repository has no {path}")
    # What is named by its content never changes; the rest must be asked for each time.
    fixed = not path.startswith("metadata/timestamp")
    whose = "public" if public else "private"
    cache = f"{whose}, max-age=31536000, immutable" if fixed else "no-cache"
    return FileResponse(
        file, media_type="application/octet-stream", headers={"Cache-Control": cache}
    )
