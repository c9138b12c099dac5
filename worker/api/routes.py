"""Routes of the read model, the live page, and acknowledgements."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from worker.api import views
from worker.api.audit import Auditor
from worker.api.fleet import EpisodeView, State
from worker.api.live import Gatherer, Introduction, Stream
from worker.api.problems import Problem, problem_responses
from worker.api.security import LOCAL, Caller, require
from worker.assets import asset_dir
from worker.core.errors import BrokerError
from worker.core.messages import MAX_MACHINE_ID_CHARS, Acknowledgement, format_time_us
from worker.models.manifest import versions_in

STATIC = pathlib.Path(__file__).parents[1] / "static"
MAX_PAGE = 1_000
MAX_OFFSET = 10_000_000
PAGE_FILES = ("page.css", "main.js", "look.js", "stream.js", "grid.js", "lists.js", "machine.js")
UPLOT_FILES = ("uPlot.iife.min.js", "uPlot.min.css")
COMMON = (401, 403, 422, 429, 503)
"""Problems that every route may answer with."""
REF = "#/components/schemas/{name}"

Admin = Annotated[Caller, Depends(require("admin"))]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]
MachineId = Annotated[str, Path(min_length=1, max_length=MAX_MACHINE_ID_CHARS)]
EpisodeId = Annotated[str, Path(min_length=1, max_length=MAX_MACHINE_ID_CHARS + 64)]


class Note(BaseModel):
    """Who looks after an episode, and what they note."""

    who: str = Field(min_length=1, max_length=100, examples=["K. Brandt"])
    note: str = Field("", max_length=1_000, examples=["On my way."])


class ModelFolder(msgspec.Struct, frozen=True):
    """The versions of one bundle that are installed, oldest first."""

    name: str
    versions: list[str]


class Models(msgspec.Struct, frozen=True):
    """Bundles that are installed, and the one in use."""

    in_use: str
    framework: str
    bundles: list[ModelFolder]


ANSWERS: tuple[type, ...] = (
    views.MachinePage,
    views.MachineView,
    views.EpisodePage,
    views.DriftPage,
    views.LatestDrift,
    EpisodeView,
    Models,
)


def fleet_schemas() -> dict[str, Any]:
    """The schemas of all answers, for the OpenAPI document."""
    return msgspec.json.schema_components(ANSWERS, ref_template=REF)[1]


def read_routes(gatherer: Gatherer, introduction: Introduction) -> APIRouter:
    """Everything that only reads; needs the scope read."""
    router = APIRouter(dependencies=[Depends(require("read"))], tags=["fleet"])
    fleet = gatherer.fleet

    @router.get("/machines", **_answers(views.MachinePage))
    async def machines(
        state: Annotated[list[State] | None, Query()] = None,
        text: Annotated[str, Query(max_length=MAX_MACHINE_ID_CHARS)] = "",
        sort: views.Sort = "urgency",
        offset: Offset = 0,
        limit: Limit = 100,
    ) -> Response:
        """Machines, the most urgent first."""
        wanted = frozenset(state or ())
        return _json(views.machine_page(fleet, wanted, text, sort, offset, limit))

    @router.get("/machines/{machine_id:path}", **_answers(views.MachineView, 404))
    async def machine(machine_id: MachineId) -> Response:
        """One machine: state, latest readings and features with their ages, episodes, sensors."""
        view = views.machine_view(fleet, machine_id, _now_ms())
        if view is None:
            raise Problem(404, f"nothing is known of a machine {machine_id!r}; GET /machines")
        return _json(view)

    @router.get("/episodes", **_answers(views.EpisodePage))
    async def episodes(
        status: views.Status = "open",
        machine: Annotated[str | None, Query(max_length=MAX_MACHINE_ID_CHARS)] = None,
        offset: Offset = 0,
        limit: Limit = 100,
    ) -> Response:
        """Episodes, open ones first, the latest first."""
        return _json(views.episode_page(fleet, status, machine, offset, limit))

    @router.get("/drift", **_answers(views.DriftPage))
    async def drift() -> Response:
        """Drift events as they were told last, open ones first."""
        return _json(views.drift_page(fleet))

    @router.get("/drift/latest", **_answers(views.LatestDrift))
    async def latest_drift() -> Response:
        """The drift event that was told last."""
        return _json(views.latest_drift(fleet))

    @router.get("/models", **_answers(Models))
    def models() -> Response:
        """Bundles that are installed, and the one in use."""
        folders = sorted(path for path in asset_dir("models").iterdir() if path.is_dir())
        found = [ModelFolder(path.name, versions_in(path)) for path in folders]
        return _json(Models(introduction.model_version, introduction.framework, found))

    @router.get("/live", response_class=StreamingResponse, responses=_EVENTS)
    async def live(
        machine: Annotated[str | None, Query(max_length=MAX_MACHINE_ID_CHARS)] = None,
        place: Annotated[str, Query(max_length=64)] = "",
    ) -> StreamingResponse:
        """Server-sent events: a snapshot of the fleet, then what changes, until you close it."""
        stream = Stream(gatherer, introduction, machine, place)
        return StreamingResponse(
            stream.events(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return router


def acknowledging_route(gatherer: Gatherer, auditor: Auditor) -> APIRouter:
    """What changes something: needs the scope admin."""
    router = APIRouter(tags=["fleet"])
    fleet = gatherer.fleet

    @router.post(
        "/episodes/{episode_id:path}/acknowledgement", **_answers(EpisodeView, 400, 404, 408, 413)
    )
    async def acknowledge(
        episode_id: EpisodeId,
        note: Annotated[Note, Body()],
        caller: Admin,
    ) -> Response:
        """Say that somebody looks after an episode; the same again changes nothing."""
        view = fleet.episodes.get(episode_id)
        if view is None:
            raise Problem(404, f"nothing is known of an episode {episode_id!r}; GET /episodes")
        said = {(known.who, known.note) for known in view.acknowledgements}
        if (note.who, note.note) not in said:
            told = Acknowledgement(
                episode_id,
                view.episode.machine_id,
                format_time_us(_now_ms() * 1000),
                note.who,
                note.note,
                None if caller.name == LOCAL else caller.name,
            )
            try:
                await auditor.publish(told)
            except BrokerError as error:
                raise Problem(503, str(error)) from error
            fleet.apply(told, _now_ms())
        return _json(fleet.episodes.get(episode_id))

    return router


def page_routes() -> APIRouter:
    """The page's own files; they hold nothing of the fleet, so they need no token."""
    router = APIRouter(include_in_schema=False)
    folders = {"page": PAGE_FILES, "uplot": UPLOT_FILES}
    files = {
        f"/static/{folder}/{name}": STATIC / folder / name
        for folder, names in folders.items()
        for name in names
    }
    for route, path in {"/": STATIC / "page" / "index.html", **files}.items():
        router.add_api_route(route, _sender(str(path)), methods=["GET", "HEAD"])
    return router


def _sender(path: str) -> Callable[[], FileResponse]:
    # Revalidated each time, so that a new version's files never mix with an old one's.
    return lambda: FileResponse(path, headers={"Cache-Control": "no-cache"})


def _answers(kind: type, *problems: int) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(name=kind.__name__)}}}
    described = {200: {"description": (kind.__doc__ or "").split("\n\n")[0], "content": content}}
    return {"responses": {**described, **problem_responses(*COMMON, *problems)}}


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _now_ms() -> int:
    return int(time.time() * 1000)


_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **problem_responses(*COMMON),
}
