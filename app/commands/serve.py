"""The server, and its settings."""

import asyncio
import logging
import socket
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from app.catalog import StartupError
from app.commands.shared import CheckpointsOption, fail, make_settings
from app.http.reference import api_reference
from app.main import create_app, include_routes
from app.metrics import Metrics
from app.registry import Registry
from app.settings import Settings

GRACE_SECONDS = 5
"""Time that running requests have to finish when the server stops."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (CAROUSEL_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one (CAROUSEL_PORT).")] = None,
    checkpoints: CheckpointsOption = None,
    model: Annotated[str | None, typer.Option(help="The default model (CAROUSEL_DEFAULT_MODEL).")] = None,
) -> None:
    """Serve every checkpoint over HTTP. All other settings are environment variables: `python -m app settings`."""
    settings = make_settings(host=host, port=port, checkpoints=checkpoints, default_model=model)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        app = create_app(settings)
    except StartupError as error:
        fail(str(error))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_graceful_shutdown=GRACE_SECONDS + 1,
    )
    server = _Server(config, app.state.registry)
    server.run()
    if not server.started:
        raise typer.Exit(1)


class _Server(uvicorn.Server):
    """Lets running requests finish for `GRACE_SECONDS`; those that do not get the error of a server that shuts down."""

    def __init__(self, config: uvicorn.Config, registry: Registry) -> None:
        super().__init__(config)
        self._registry = registry

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._registry.stop)
        await super().shutdown(sockets)


def show_settings() -> None:
    """Every CAROUSEL_* environment variable, with its default and meaning."""
    print(Settings.table(), end="")  # noqa: T201


def show_metrics() -> None:
    """Every Prometheus metric, with its type and meaning."""
    print(Metrics.table(), end="")  # noqa: T201


def show_reference() -> None:
    """The API reference, as Markdown."""
    app = FastAPI(title="Carousel")
    include_routes(app)
    print(api_reference(app.openapi()), end="")  # noqa: T201
