"""The server, and its settings."""

import asyncio
import logging
import math
import os
import re
import signal
import socket
import threading
from ipaddress import ip_address
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI
from rich.console import Console

from app.catalog import StartupError
from app.commands.shared import CheckpointsOption, fail, make_settings
from app.http.protocol import server_config
from app.http.reference import api_reference
from app.keys import load_keys, new_key
from app.logs import configure_log
from app.main import create_app, include_routes
from app.metrics import Metrics
from app.registry import Registry
from app.settings import Settings

FAILED_SECONDS = 4.0
"""How long a server whose engine has failed still answers, so that its clients hear of it; then the process ends."""

logger = logging.getLogger("carousel")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (CAROUSEL_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one (CAROUSEL_PORT).")] = None,
    checkpoints: CheckpointsOption = None,
    model: Annotated[str | None, typer.Option(help="The default model (CAROUSEL_DEFAULT_MODEL).")] = None,
) -> None:
    """Serve every checkpoint over HTTP. All other settings are environment variables: `python -m app settings`."""
    settings = make_settings(host=host, port=port, checkpoints=checkpoints, default_model=model)
    configure_log(settings)
    try:
        app = create_app(settings)
    except StartupError as error:
        fail(str(error))
    if not app.state.keys and not _is_loopback(settings.host):
        logger.warning(
            "anyone who reaches %s may use this server: it asks for no API key. 'python -m app key NAME' makes one, "
            "CAROUSEL_API_KEYS_FILE names their file",
            settings.host,
        )
    config = server_config(
        app,
        settings,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        timeout_graceful_shutdown=math.ceil(settings.grace_seconds) + 1,
    )
    server = _Server(config, app, settings)
    server.run()
    if not server.started or server.failed:
        raise typer.Exit(1)


class _Server(uvicorn.Server):
    """Takes up checkpoints on SIGHUP. Told to stop, it takes no more requests and lets those under way end within the
    grace; those that do not get the error of a server that shuts down. When an engine has failed, the process ends."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._state = app.state
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._take_up)

    async def on_tick(self, counter: int) -> bool:
        if not self.failed and (fault := self._state.registry.fault):
            logger.critical("%s; the server ends", fault)
            self.failed = True
            # From a thread: whatever hangs, the process ends, and who runs it starts it again.
            ending = threading.Timer(FAILED_SECONDS, os._exit, (1,))
            ending.daemon = True
            ending.start()
        return await super().on_tick(counter) or self.failed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        registry: Registry = self._state.registry
        registry.draining = True
        asyncio.get_running_loop().call_later(0 if self.failed else self._settings.grace_seconds, registry.stop)
        await super().shutdown(sockets)

    def _take_up(self) -> None:
        task = asyncio.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        try:
            keys = load_keys(self._settings)
            keys.take_over(self._state.keys)
            self._state.keys = keys
        except StartupError as error:
            logger.error("the keys stay as they were: %s", error)
        await self._state.reloader.reload()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_key(
    name: Annotated[str, typer.Argument(help="Whom the key is for: letters, digits, hyphens.")],
    models: Annotated[
        str | None, typer.Option(help="Names of the models it may ask, with commas; without: all.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Most requests that it may have under way.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="It may have checkpoints taken up anew.")] = False,
) -> None:
    """Make an API key. The key is printed once; its line goes into the file that CAROUSEL_API_KEYS_FILE names."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        fail(f"{name!r}: a name has 1 to 64 letters, digits, dots, underscores and hyphens", code=2)
    key, line = new_key(name, models.split(",") if models else (), requests, reload)
    Console(stderr=True).print("the key, for its owner, and the line for the file of keys:")
    print(key)  # noqa: T201
    print(line)  # noqa: T201


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
