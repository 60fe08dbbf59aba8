"""What the service says about itself: health, readiness, the served models, metrics."""

from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from app.errors import ForbiddenError, UnavailableError
from app.http.errors import RESPONSES
from app.http.parsing import MetricsDep, RegistryDep, SettingsDep, key_of, key_where_closed
from app.registry import Entry, Registry
from app.reload import Reloader, ReloadResponse

router = APIRouter(tags=["system"])

_RELOAD_ERRORS: dict[int | str, dict[str, Any]] = {status: RESPONSES[status] for status in (401, 403)}


class ModelInfo(BaseModel):
    name: str
    task: str
    default: bool = Field(description="Whether requests that name no model get this model.")
    loaded: bool = Field(description="Whether the model is in memory; else it is loaded when it is first asked.")
    version: str = Field(description="SHA-256 of what decides its answers: weights, tokenizer and speller.")
    old_versions: list[str] = Field(description="Versions before it that still answer requests with their states.")
    backend: str | None
    level: str
    boundary: str
    cell: str
    vocabulary_size: int
    parameters: int
    speller: bool
    storage: str = Field(description="Number type of the stored weights.")
    fingerprint: str = Field(description="SHA-256 of the weights.")
    about: dict[str, object]
    card: str


class RefusedCheckpoint(BaseModel):
    name: str
    file: str
    reason: str


class InfoResponse(BaseModel):
    version: str
    default: str
    models: list[ModelInfo]
    refused: list[RefusedCheckpoint]
    limits: dict[str, int | float]


class HealthResponse(BaseModel):
    status: Literal["ok", "ready"]


def product_version() -> str:
    """The installed version; a source tree that is not installed has none."""
    try:
        return version("carousel-lm")
    except PackageNotFoundError:
        return "0+unknown"


@router.get("/health", summary="Is the process alive?", responses={503: RESPONSES[503]})
async def get_health(registry: RegistryDep) -> HealthResponse:
    """503 when an engine has failed; the process then ends by itself."""
    if fault := registry.fault:
        raise UnavailableError(fault)
    return HealthResponse(status="ok")


@router.get("/ready", summary="Has the default model answered?", responses={503: RESPONSES[503]})
async def get_ready(request: Request, registry: RegistryDep) -> HealthResponse:
    """503 until the default model has answered a first question, while shutting down, and when an engine has failed."""
    if not _is_ready(request, registry):
        raise UnavailableError(registry.fault or "not ready")
    return HealthResponse(status="ready")


@router.get("/info", summary="What is served, and within which limits?", dependencies=[Depends(key_where_closed)])
async def get_info(registry: RegistryDep, settings: SettingsDep) -> InfoResponse:
    return InfoResponse(
        version=product_version(),
        default=registry.default,
        models=[_model_info(entry, registry.default_of(entry.task)) for entry in registry.entries.values()],
        refused=[
            RefusedCheckpoint(name=refused.name, file=str(refused.error.path), reason=refused.error.reason)
            for refused in registry.refused
        ],
        limits=settings.limits(),
    )


@router.post("/models/reload", summary="Take up new and changed checkpoints", responses=_RELOAD_ERRORS)
async def post_reload(request: Request) -> ReloadResponse:
    """Requests under way end on the version that they began with. Needs a key that may do so; where no keys are set,
    a request from this machine that no proxy has passed on."""
    key, client = key_of(request), request.client
    if key is None:
        passed_on = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "origin"))
        if client is None or passed_on or not ip_address(client.host).is_loopback:
            raise ForbiddenError("reloading is for this machine alone where no API keys are set")
    elif not key.reloads:
        raise ForbiddenError(f"the key {key.name!r} may not reload")
    reloader: Reloader = request.app.state.reloader
    return await reloader.reload()


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, dependencies=[Depends(key_where_closed)])
async def get_metrics(request: Request, registry: RegistryDep, metrics: MetricsDep) -> Response:
    metrics.ready.set(_is_ready(request, registry))
    metrics.step_age_seconds.set(max(served.engine.step_age_seconds for served in registry.loaded()))
    metrics.checkpoints_refused.set(len(registry.refused))
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _is_ready(request: Request, registry: Registry) -> bool:
    return bool(request.app.state.ready) and not registry.draining and registry.fault is None


def _model_info(entry: Entry, default: str | None) -> ModelInfo:
    description = entry.description
    return ModelInfo(
        name=entry.name,
        task=entry.task,
        default=entry.name == default,
        loaded=entry.current is not None,
        version=description.version,
        old_versions=[served.version for served in entry.old],
        backend=entry.current.engine.backend if entry.current else None,
        level=description.level,
        boundary=description.boundary,
        cell=description.config.cell,
        vocabulary_size=description.config.vocabulary_size,
        parameters=description.config.num_parameters,
        speller=description.has_speller,
        storage=description.storage,
        fingerprint=description.fingerprint,
        about=description.about,
        card=description.card,
    )
