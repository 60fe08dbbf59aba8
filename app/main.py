"""The application: settings in, routes out."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.deadline import Deadline
from app.http import page, system, tasks
from app.http.document import install_document
from app.http.errors import install_error_handlers
from app.http.gate import gated
from app.http.parsing import BodyRoom
from app.keys import load_keys
from app.metrics import Metrics
from app.openai import routes as openai
from app.registry import LANGUAGE_MODEL, Registry
from app.reload import Reloader
from app.settings import Settings
from app.tasks import next as next_words
from app.tasks.beside import Workers
from app.tasks.task import Call
from models.process import settle_process


def create_app(settings: Settings) -> FastAPI:
    """The service of the checkpoints in the settings' folder; raises `StartupError` without a default model."""
    metrics = Metrics()
    keys = load_keys(settings)
    registry = Registry(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        registry.start()
        try:
            served = await registry.find(registry.default, registry.entries[registry.default].task)
            await served.try_out()
            if served.task == LANGUAGE_MODEL:
                first = Call(served, settings, Deadline.after(settings.timeout_seconds))
                await next_words.answer(next_words.NextRequest(text=""), first)
            settle_process()
            app.state.ready = True
            threads = (app.state.workers, app.state.readers)
            tidying = [asyncio.create_task(one.tidy(lambda: registry.busy)) for one in threads]
            yield
            for task in tidying:
                task.cancel()
        finally:
            app.state.ready = False
            registry.stop()

    app = FastAPI(
        title="Carousel",
        description="Small recurrent language models: sampling, next words and sentence probabilities.",
        version=system.product_version(),
        lifespan=lifespan,
        openapi_url=None,  # served by app/http/page.py
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # a tenth of a request's time
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.registry = registry
    app.state.keys = keys
    app.state.reloader = Reloader(registry, settings)
    app.state.workers = Workers(settings.max_requests)
    app.state.readers = Workers(settings.max_requests, threads=1)
    app.state.body_room = BodyRoom(settings.max_bodies_bytes)
    app.state.ready = False
    install_error_handlers(app)
    include_routes(app)
    app.middleware_stack = gated(app.build_middleware_stack(), settings)
    return app


def include_routes(app: FastAPI) -> None:
    """Every route of the service, and the OpenAPI document."""
    install_document(app)
    app.include_router(tasks.router)
    app.include_router(openai.tasks)
    app.include_router(openai.lists)
    app.include_router(system.router)
    app.include_router(page.router)
