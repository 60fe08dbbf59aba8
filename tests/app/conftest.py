"""A real server on a real socket, for the tests of the service."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.http.protocol import server_config
from app.main import create_app
from app.settings import Settings


class Server(uvicorn.Server):
    """Says when it is up, and where."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(server_config(app, settings, host="127.0.0.1", port=0, log_level="warning"))
        self.up = threading.Event()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @property
    def url(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"


@contextmanager
def serving(**settings: Any) -> Iterator[httpx.Client]:
    """A server with these settings; a client of it."""
    given = Settings(**settings)
    server = Server(create_app(given), given)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.up.wait(60)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def client(checkpoints_dir: Path) -> Iterator[httpx.Client]:
    """A client of a server of the tiny models; `word` is the default."""
    with serving(checkpoints=checkpoints_dir, default_model="word", threads=1) as client:
        yield client


def metric(client: httpx.Client, name: str, model: str = "word") -> float:
    """The value of one of the server's metrics."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f'{name}{{model_name="{model}"}} '):
            return float(line.split()[-1])
    return 0.0


def post(client: httpx.Client, route: str, **body: Any) -> Any:
    response = client.post(route, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def checkpoints(checkpoints_dir: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(checkpoints_dir, tmp_path / "checkpoints"))
