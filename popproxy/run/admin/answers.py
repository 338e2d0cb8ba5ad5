"""How /v1 is asked and answers: JSON both ways, and what is wrong is ``{"error": "..."}`` with HTTP's word for it.

Workers are asked by the Fleet. One that is mute does not spoil the answer of the others: it is named in ``missing``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from popproxy.net.desk import BadQuestion
from popproxy.run.fleet import Answer, Fleet

THREAD = web.AppKey("thread", ThreadPoolExecutor)
"""Where answers are written: not on the loop."""
LONGEST = 2000
"""Characters of one parameter of a query."""


@web.middleware
async def in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is wrong with a request is said in JSON, wherever it shows."""
    try:
        return await handler(request)
    except BadQuestion as error:
        return web.json_response({"error": str(error)}, status=error.status)
    except web.HTTPException as error:
        if error.status < 400 or not request.path.startswith("/v1"):
            raise
        told = _told(error, request)
        answer = web.json_response({"error": told}, status=error.status)
        for name in ("Allow", "WWW-Authenticate"):
            if name in error.headers:
                answer.headers[name] = error.headers[name]
        return answer


def _told(error: web.HTTPException, request: web.Request) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not for this path: use {', '.join(sorted(error.allowed_methods))}"
    if isinstance(error, web.HTTPNotFound):
        return "there is no such path; /v1/openapi.json names them all"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return "the body is too large"
    return error.text if error.text and not error.text.startswith(str(error.status)) else error.reason


async def answer(request: web.Request, value: object, status: int = 200) -> web.Response:
    """``value`` as JSON, written in the thread. A function makes the value, there as well."""
    loop = asyncio.get_running_loop()
    body = await loop.run_in_executor(request.app[THREAD], _written, value)
    return web.Response(body=body, status=status, content_type="application/json")


def _written(value: object) -> bytes:
    value = value() if callable(value) else value
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


Reader = Callable[[str], object]


def text(value: str) -> str:
    """A parameter that is a string."""
    return value


def whole(value: str) -> int:
    """A parameter that is a number. Raises ValueError."""
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise ValueError("write a number")
    return int(value)


def truth(value: str) -> bool:
    """A parameter that is true or false; without a value it is true. Raises ValueError."""
    if value in ("", "true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise ValueError("write true or false")


def asked(request: web.Request, **readers: Reader) -> dict[str, Any]:
    """The parameters of the query. Raises BadQuestion for one that ``readers`` do not know, that comes twice, or is
    wrong."""
    found: dict[str, Any] = {}
    for name, value in request.query.items():
        reader = readers.get(name)
        if reader is None:
            known = f"write one of: {', '.join(readers)}" if readers else "this path takes none"
            raise BadQuestion(400, f"there is no parameter {name[:60]!r}: {known}")
        if name in found:
            raise BadQuestion(400, f"{name} is there twice")
        if len(value) > LONGEST:
            raise BadQuestion(400, f"{name} is too long")
        try:
            found[name] = reader(value)
        except ValueError as error:
            raise BadQuestion(400, f"{name}: {error}") from None
    return found


async def said(request: web.Request, *names: str) -> dict[str, Any]:
    """The JSON object of the body, empty without one. Raises BadQuestion for what is none, and for unknown names."""
    octets = await request.read()
    if not octets:
        return {}
    try:
        found = json.loads(octets, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadQuestion(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise BadQuestion(400, "the body is no JSON object: write {...}")
    for name, value in found.items():
        if value is None:
            raise BadQuestion(400, f"{name[:60]}: null says nothing, leave it out")
        if name not in names:
            known = f"write one of: {', '.join(names)}" if names else "this path takes none"
            raise BadQuestion(400, f"there is no field {name[:60]!r}: {known}")
    return found


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


async def gathered(
    fleet: Fleet, question: str, arguments: Mapping[str, Any], deadline: float = 2.0
) -> tuple[list[Answer], list[int]]:
    """What the workers said who could answer, and the slots of those who could not for want of time. Raises BadQuestion
    when nobody can: with the first answer that says what is wrong, before one that only says that it is not there."""
    answers = await fleet.ask(question, arguments, deadline)
    good = [one for one in answers if one.status == 200]
    missing = [one.slot for one in answers if one.status in (503, 504)]
    if not good:
        raise _worst(answers)
    return good, missing


def _worst(answers: Sequence[Answer]) -> BadQuestion:
    if not answers:
        return BadQuestion(503, "no worker is up")
    # A mute one might have had it: nobody can say that it is not there.
    chosen = min(answers, key=lambda one: (one.status != 400, one.status not in (503, 504), one.status))
    return BadQuestion(chosen.status, chosen.error)
