"""The HTTP service as one FastAPI app: what every route shares, and the routes that need no more.

Routers of other modules are handed in by whoever builds the service (:mod:`worker.api.server`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from worker import __version__
from worker.api.guard import Guard
from worker.api.metrics import ApiMetrics
from worker.api.predicting import SENSOR_EVENT, Predictions, prediction_routes, reading_schema
from worker.api.problems import Problem, ProblemDocument, handle_problems, problem_responses
from worker.api.routes import fleet_schemas
from worker.api.security import Access, read_tokens, require
from worker.models.bundle import Bundle
from worker.online.store import OnlineReader
from worker.pipelines import create_pipeline
from worker.settings import Settings

Check = Callable[[], str]
"""Says what is wrong with a part of the service; empty: nothing."""

DESCRIPTION = """Scores machine telemetry and tells what machines do.

Errors are `application/problem+json`. Unless the service listens on this machine alone, each
request needs a token, with the scope `read`, `predict` or `admin`."""


class HealthOut(BaseModel):
    """Whether the service does all that it should."""

    status: Literal["healthy", "degraded"]
    reasons: list[str] = Field(description="What does not work; empty when healthy.")
    model_loaded: bool
    model_version: str
    uptime_seconds: float


def create_api(
    settings: Settings,
    bundle: Bundle,
    reader: OnlineReader | None = None,
    routers: Sequence[APIRouter] = (),
    checks: Mapping[str, Check] | None = None,
) -> FastAPI:
    """Build the service; it opens nothing.

    Args:
        reader: of the online store; None: there is none, so readings are scored alone.
        routers: further routes.
        checks: of what the service reads from, by name; ``/health`` asks each.

    Raises:
        ConfigError: the tokens file cannot be used.
    """
    serve = settings.serve
    tokens = None if serve.tokens_file is None else read_tokens(serve.tokens_file)
    metrics = ApiMetrics(bundle.model_version, bundle.framework)
    predictions = Predictions(
        create_pipeline(settings, bundle), bundle.model_version, reader, metrics
    )
    app = FastAPI(
        title="DriftDetector",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_refuse_unknown_parameters)],
    )
    app.state.access = Access(tokens)
    app.add_middleware(Guard, settings=serve, metrics=metrics)
    handle_problems(app)
    app.include_router(_service_routes(bundle, metrics, checks or {}))
    app.include_router(prediction_routes(bundle.spec, predictions, metrics))
    for router in routers:
        app.include_router(router)
    app.openapi = lambda: _openapi(app, bundle)  # type: ignore[method-assign]
    return app


def _service_routes(bundle: Bundle, metrics: ApiMetrics, checks: Mapping[str, Check]) -> APIRouter:
    router = APIRouter(tags=["service"])
    started_s = time.monotonic()

    def health() -> HealthOut:
        found = {name: check() for name, check in checks.items()}
        reasons = [f"{name}: {reason}" for name, reason in found.items() if reason]
        return HealthOut(
            status="degraded" if reasons else "healthy",
            reasons=reasons,
            model_loaded=True,
            model_version=bundle.model_version,
            uptime_seconds=round(time.monotonic() - started_s, 3),
        )

    @router.get("/health", summary="Is it well? Always 200: degraded, it still answers")
    async def get_health() -> HealthOut:
        return health()

    @router.get(
        "/ready",
        summary="Should it be sent requests? 503 until all that it reads from answers",
        response_model=HealthOut,
        responses={503: {"model": HealthOut, "description": "Not yet, or not now."}},
    )
    async def get_ready(response: Response) -> HealthOut:
        found = health()
        response.status_code = 200 if found.status == "healthy" else 503
        return found

    @router.get(
        "/metrics",
        summary="Prometheus' text format",
        response_class=Response,
        dependencies=[Depends(require("read"))],
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **problem_responses(401, 403, 429, 503),
        },
    )
    async def get_metrics() -> Response:
        return Response(metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


async def _refuse_unknown_parameters(request: Request) -> None:
    """A parameter with a slip in its name must not be as if it were not there."""
    route = request.scope["route"]
    if not route.include_in_schema:  # the page's own
        return
    known = {parameter.alias for parameter in route.dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise Problem(
            422, f"{request.url.path[:200]} has no parameter {unknown[0][:100]!r}; {takes}"
        )


def _openapi(app: FastAPI, bundle: Bundle) -> dict[str, Any]:
    """The document, with what routes only refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas[SENSOR_EVENT] = reading_schema(bundle.spec)
        schemas.update(fleet_schemas())
        schemas[ProblemDocument.__name__] = ProblemDocument.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema
