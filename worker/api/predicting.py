"""``POST /predict`` and ``POST /predict/batch``: readings scored as the stream would score them.

Bodies are sensor events and are decoded by the stream's own decoder, so the routes read them
raw; what OpenAPI says of them is the sensor event's own schema.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from worker.api.metrics import ApiMetrics, Endpoint, FeaturesSource
from worker.api.problems import Problem, problem_responses
from worker.api.security import require
from worker.contracts import example_event, schema_documents
from worker.core.channels import ChannelSpec
from worker.core.errors import OnlineStoreError
from worker.core.events import Chunk, Reject
from worker.core.messages import Cause, DeadLetterReason, Severity
from worker.core.pipeline import Pipeline
from worker.core.prediction import Known, Prediction, Predictor
from worker.online.machine import known
from worker.online.store import OnlineReader

MAX_BATCH = 100
STORE_DEADLINE_S = 0.008
"""A prediction without the machine's past now is worth more than one with it too late."""
SOURCE = "request"
SENSOR_EVENT = "SensorEvent"

_JSON = {"application/json": {"schema": {"$ref": f"#/components/schemas/{SENSOR_EVENT}"}}}


class CauseOut(BaseModel):
    """A channel that makes a reading anomalous; see the message schema anomaly.json."""

    channel: str
    unit: str
    value: float | str | None
    expected: float | None
    deviation: float = Field(description="In the machine's own standard deviations.")
    share: float = Field(ge=0.0, le=1.0)


class PredictionOut(BaseModel):
    """What the stream would say of the reading if it came now."""

    machine_id: str
    is_anomaly: bool
    anomaly_score: float = Field(
        ge=-1.0, le=1.0, description="Lower is worse; an anomaly exactly where below `threshold`."
    )
    confidence: float = Field(
        ge=0.0, le=1.0, description="Probability that a normal reading were less abnormal."
    )
    timestamp: str = Field(description="Of the reading, RFC 3339 UTC.")
    model_version: str
    threshold: float
    experience: float = Field(description="Share of the machine's warm-up that is done.")
    severity: Literal["low", "medium", "high"] | None
    reason: str = Field(description="Of an anomaly, in one sentence; else empty.")
    causes: list[CauseOut]
    masked: list[str] = Field(description="Channels whose reading was left out as impossible.")
    features_source: Literal["online", "request"] = Field(
        description="online: the machine's own past was used; request: the reading alone."
    )
    features_note: str = Field(description="Why the reading alone was used; else empty.")


class RefusedOut(BaseModel):
    """A reading of a batch that cannot be scored."""

    error: str = Field(description="The reason as a dead letter would give it.")
    detail: str


class SummaryOut(BaseModel):
    """Counts over a batch."""

    total: int
    scored: int
    anomalies: int
    refused: int
    online: int = Field(description="Readings for which the machine's past was used.")


class BatchOut(BaseModel):
    """Results in the order of the readings, and their summary."""

    results: list[PredictionOut | RefusedOut]
    summary: SummaryOut


class _Answer(msgspec.Struct):
    machine_id: str
    is_anomaly: bool
    anomaly_score: float
    confidence: float
    timestamp: str
    model_version: str
    threshold: float
    experience: float
    severity: Severity | None
    reason: str
    causes: list[Cause]
    masked: list[str]
    features_source: FeaturesSource
    features_note: str


class _Refusal(msgspec.Struct):
    error: DeadLetterReason
    detail: str


class _Named(msgspec.Struct):
    machine_id: str


class _Batch(msgspec.Struct):
    readings: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class _Waiting(NamedTuple):
    """The readings of one request, and what is to become of them."""

    readings: Sequence[bytes]
    keys: Sequence[str | None]
    found: asyncio.Future[list[_Answer | _Refusal]]


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_encode = msgspec.json.Encoder().encode


class Predictions:
    """Scores readings with what the online store has of their machines.

    Requests that come together are answered together: one question to the store, one call of
    the model, for one reading costs nearly what ten do.

    Args:
        reader: of the store; None: there is none.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        model_version: str,
        reader: OnlineReader | None,
        metrics: ApiMetrics,
    ) -> None:
        self._spec = pipeline.spec
        self._predictor = Predictor(pipeline)
        self._model_version = model_version
        self._reader = reader
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._answering: asyncio.Task[None] | None = None

    async def predict(self, readings: Sequence[bytes]) -> list[_Answer | _Refusal]:
        """Score readings, each on its own, as gateways would send them."""
        keys = [_machine_id(reading) for reading in readings]
        waiting = _Waiting(readings, keys, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer_waiting())
        return await waiting.found

    async def _answer_waiting(self) -> None:
        """Answer what has come, and what comes meanwhile, each time all of it together."""
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                found = iter(await self._answer(together))
            except Exception as error:  # noqa: BLE001  # each of them has to be answered
                for waiting in together:
                    if not waiting.found.done():  # who asked may be gone
                        waiting.found.set_exception(error)
                continue
            for waiting in together:
                own = list(islice(found, len(waiting.readings)))
                if not waiting.found.done():
                    waiting.found.set_result(own)
        self._answering = None

    async def _answer(self, together: Sequence[_Waiting]) -> list[_Answer | _Refusal]:
        keys = [key for waiting in together for key in waiting.keys]
        pasts, note = await self._pasts(keys)
        values = [reading for waiting in together for reading in waiting.readings]
        chunk = Chunk(
            topic=SOURCE,
            partition=0,
            offsets=np.arange(len(values)),
            timestamps_ms=np.full(len(values), time.time_ns() // 1_000_000),
            keys=[None if key is None else key.encode() for key in keys],
            values=values,
        )
        found = self._predictor.predict(chunk, pasts)
        return [
            _Refusal(one.reason, one.detail)
            if isinstance(one, Reject)
            else self._say(one, note or ("" if past else "the machine is not in the store"))
            for one, past in zip(found, pasts, strict=True)
        ]

    async def _pasts(self, keys: Sequence[str | None]) -> tuple[list[Known | None], str]:
        """What is known of the machines; and why, where nothing is."""
        nothing: list[Known | None] = [None] * len(keys)
        if self._reader is None:
            return nothing, "no online store is set"
        named = list(dict.fromkeys(key for key in keys if key is not None))
        if not named:
            return nothing, ""
        try:
            async with asyncio.timeout(STORE_DEADLINE_S):
                documents = await self._reader.get(named)
        except (OnlineStoreError, TimeoutError):
            self._metrics.on_store_failed()
            return nothing, "the online store did not answer in time"
        by_key = dict(zip(named, documents, strict=True))
        pasts = []
        for key in keys:
            document = None if key is None else by_key[key]
            pasts.append(None if document is None else known(self._spec, document))
        return pasts, ""

    def _say(self, prediction: Prediction, note: str) -> _Answer:
        source: FeaturesSource = "online" if prediction.known else "request"
        self._metrics.on_predicted(source, prediction.is_anomaly)
        if not prediction.known and not note:
            note = "what the store has of the machine was written for another model"
        return _Answer(
            machine_id=prediction.machine_id,
            is_anomaly=prediction.is_anomaly,
            anomaly_score=prediction.anomaly_score,
            confidence=prediction.confidence,
            timestamp=prediction.timestamp,
            model_version=self._model_version,
            threshold=prediction.threshold,
            experience=prediction.experience,
            severity=prediction.severity,
            reason=prediction.reason,
            causes=prediction.causes,
            masked=prediction.masked,
            features_source=source,
            features_note="" if prediction.known else note,
        )


def prediction_routes(
    spec: ChannelSpec, predictions: Predictions, metrics: ApiMetrics
) -> APIRouter:
    """The routes, for readings of these channels."""
    router = APIRouter(tags=["predictions"], dependencies=[Depends(require("predict"))])
    refused = problem_responses(401, 403, 408, 413, 422, 429, 503)
    example = example_event(spec)
    single = {"content": {"application/json": {**_JSON["application/json"], "example": example}}}
    several = {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["readings"],
                    "properties": {
                        "readings": {
                            "type": "array",
                            "items": {"$ref": f"#/components/schemas/{SENSOR_EVENT}"},
                            "minItems": 1,
                            "maxItems": MAX_BATCH,
                        }
                    },
                },
                "example": {"readings": [example]},
            }
        }
    }

    @router.post(
        "/predict",
        summary="Score one reading",
        openapi_extra={"requestBody": {"required": True, **single}},
        responses={200: {"model": PredictionOut}, **refused},
    )
    async def predict(request: Request) -> Response:
        with _Timed(metrics, "/predict") as timed:
            (found,) = await predictions.predict([await request.body()])
            if isinstance(found, _Refusal):
                timed.status = 422
                raise Problem(422, f"{found.error}: {found.detail}", reason=found.error)
            return Response(_encode(found), media_type="application/json")

    @router.post(
        "/predict/batch",
        summary=f"Score up to {MAX_BATCH} readings, each on its own",
        openapi_extra={"requestBody": {"required": True, **several}},
        responses={200: {"model": BatchOut}, **refused},
    )
    async def predict_batch(request: Request) -> Response:
        with _Timed(metrics, "/predict/batch") as timed:
            try:
                batch = _decode_batch(await request.body())
            except (msgspec.DecodeError, UnicodeError) as error:
                timed.status = 422
                raise Problem(
                    422, f'{error}; send {{"readings": [...]}} with 1 to {MAX_BATCH} events'
                ) from error
            found = await predictions.predict([bytes(reading) for reading in batch.readings])
            return Response(
                _encode({"results": found, "summary": _summary(found)}),
                media_type="application/json",
            )

    return router


def reading_schema(spec: ChannelSpec) -> dict[str, Any]:
    """The sensor event's JSON Schema, for the OpenAPI document."""
    schema = dict(schema_documents(spec)["sensor-event.json"])
    del schema["$schema"]
    return schema


def _summary(found: Sequence[_Answer | _Refusal]) -> dict[str, int]:
    answers = [one for one in found if isinstance(one, _Answer)]
    sources = Counter(one.features_source for one in answers)
    return {
        "total": len(found),
        "scored": len(answers),
        "anomalies": sum(one.is_anomaly for one in answers),
        "refused": len(found) - len(answers),
        "online": sources["online"],
    }


def _machine_id(reading: bytes) -> str | None:
    """Which machine it is of; None: whoever decodes it will say what is wrong."""
    try:
        return _decode_named(reading).machine_id
    except (msgspec.DecodeError, UnicodeError):
        return None


class _Timed:
    """Counts one request; ``status`` is what it is answered with."""

    def __init__(self, metrics: ApiMetrics, endpoint: Endpoint) -> None:
        self.status = 200
        self._metrics = metrics
        self._endpoint: Endpoint = endpoint

    def __enter__(self) -> _Timed:
        self._started_s = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = 500 if kind is not None and self.status == 200 else self.status
        elapsed_s = time.perf_counter() - self._started_s
        self._metrics.on_answered(self._endpoint, status, elapsed_s)
