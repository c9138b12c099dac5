"""Errors of the HTTP API: every one is ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20


class Problem(HTTPException):
    """A request that cannot be answered, as a sentence that says what to do instead.

    Attributes:
        more: further members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(status, detail, headers)
        self.more = more


class ProblemDocument(BaseModel):
    """What is wrong with a request (RFC 9457)."""

    type: str = Field("about:blank", description="Always about:blank: the status says the kind.")
    title: str = Field(description="The status in words.", examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="What is wrong, and what to send instead.",
        examples=["invalid-field: Expected `float`, got `str` - at `$.vibration`"],
    )


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: these statuses are answered with a problem."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """The answer that tells of a problem."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    return Response(
        msgspec.json.encode(document),
        status,
        headers=dict(headers) if headers else None,
        media_type=MEDIA_TYPE,
    )


def handle_problems(app: FastAPI) -> None:
    """Let every error of an app be a problem document."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_bug)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return problem_response(error.status_code, error.detail, error.headers, **error.more)
    detail = {
        400: "the body is not JSON in UTF-8",
        404: f"nothing is at {request.url.path[:200]}; /openapi.json lists what is",
        405: f"{request.method} is not for {request.url.path[:200]}; the header Allow says what is",
    }.get(error.status_code, str(error.detail))
    return problem_response(error.status_code, detail, error.headers)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"at": "/".join(map(str, one["loc"])), "detail": one["msg"]}
        for one in error.errors()[:MAX_ERRORS]
    ]
    first = f"{errors[0]['at']}: {errors[0]['detail']}" if errors else "the request is invalid"
    return problem_response(422, first, errors=errors)


async def _on_bug(request: Request, error: Exception) -> Response:
    # The framework raises it again once this is sent, and uvicorn's own log is off.
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(500, "this is a bug of the service; its log has the traceback")
