"""The application: settings in, routes out."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.errors import install_error_handlers
from app.http import page, system, tasks
from app.http.document import install_document
from app.metrics import Metrics
from app.openai import routes as openai
from app.registry import load_registry
from app.schemas import NextRequest
from app.settings import Settings
from app.tasks import next as next_words
from models.process import settle_process


def create_app(settings: Settings) -> FastAPI:
    """A service of the checkpoints that the settings point at; raises `StartupError` without a default model."""
    metrics = Metrics()
    registry = load_registry(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        registry.start()
        try:
            await next_words.answer(NextRequest(text=""), registry.find(None), settings.timeout_seconds)
            settle_process()
            app.state.ready = True
            yield
        finally:
            app.state.ready = False
            registry.stop()

    app = FastAPI(
        title="Carousel",
        description="Small recurrent language models: sampling, next words and sentence probabilities.",
        version=system.product_version(),
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # a tenth of a request; /metrics has ours
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.registry = registry
    app.state.ready = False
    install_error_handlers(app)
    include_routes(app)
    return app


def include_routes(app: FastAPI) -> None:
    """All that the service answers, and the document of it."""
    install_document(app)
    app.include_router(tasks.router)
    app.include_router(openai.tasks)
    app.include_router(openai.lists)
    app.include_router(system.router)
    app.include_router(page.router)
