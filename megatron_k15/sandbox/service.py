"""The HTTP face (FastAPI).

POST /v1/run        Submission → Report, both JSON (values.py)
GET  /v1/languages  the names that `language` may have
GET  /health        {"status": "ok", …}; needs no token
GET  /metrics       Prometheus

401 wrong or no token   413 body too large   422 not a submission (the answer says why)
429 queue full, with Retry-After   503 the sandbox itself failed: try again
"""

import hmac
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter, ValidationError

from megatron_k15.sandbox.errors import JailError
from megatron_k15.sandbox.judging import CheckerError
from megatron_k15.sandbox.pool import Pool, QueueFullError
from megatron_k15.sandbox.values import Report, Submission

RETRY_AFTER_SECONDS = 1
SUBMISSIONS = TypeAdapter(Submission)
REPORTS = TypeAdapter(Report)


class RefusalError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def build_app(pool: Pool, *, token: str | None, max_body_bytes: int) -> FastAPI:
    """Args:
    token: what `Authorization: Bearer …` must carry; None asks for none.
    """
    app = FastAPI(title="megatron_k15 sandbox", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RefusalError)
    async def refuse(_: Request, refusal: RefusalError) -> JSONResponse:
        return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)

    @app.post("/v1/run")
    async def run(request: Request) -> Response:
        _check_token(request, token)
        submission = _parsed(await _body(request, max_body_bytes))
        _check_languages(submission, pool)
        return Response(REPORTS.dump_json(await _report(pool, submission)), media_type="application/json")

    @app.get("/v1/languages")
    async def languages(request: Request) -> dict[str, Any]:
        _check_token(request, token)
        return {"languages": sorted(pool.languages)}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "slots": pool.num_slots, "busy": pool.num_busy, "waiting": pool.num_waiting}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        _check_token(request, token)
        return Response(generate_latest(pool.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _report(pool: Pool, submission: Submission) -> Report:
    try:
        return await pool.run(submission)
    except QueueFullError:
        message = f"the queue holds {pool.max_waiting} submissions and is full"
        raise RefusalError(429, message, {"Retry-After": str(RETRY_AFTER_SECONDS)}) from None
    except CheckerError as error:
        raise RefusalError(422, str(error)) from error
    except JailError as error:
        raise RefusalError(503, str(error), {"Retry-After": str(RETRY_AFTER_SECONDS)}) from error


def _check_token(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise RefusalError(401, "the header Authorization must be `Bearer <the sandbox's token>`")


async def _body(request: Request, limit_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise RefusalError(413, f"a submission must have at most {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> Submission:
    try:
        return SUBMISSIONS.validate_json(body)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RefusalError(422, f"not a submission: {found}") from error


def _check_languages(submission: Submission, pool: Pool) -> None:
    for language in filter(None, (submission.language, submission.checker and submission.checker.language)):
        if language not in pool.languages:
            raise RefusalError(422, f"language must be one of {', '.join(sorted(pool.languages))}; got {language!r}")
