"""What a worker answers when it is asked: plain data in, plain data out (fit for JSON and marshal).

A question is a word, its arguments are named. The admin listener asks every worker the same way, whether it lives in
its own process or in another one. Nothing here is on the way of a session: a question costs when it is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Answerer = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Answers one kind of question. Raises BadQuestion when it cannot."""


class BadQuestion(Exception):
    """It cannot be answered. ``status`` is HTTP's word for why: 400 it is wrong, 404 there is no such thing, 409 not
    now, 503 something that is needed does not answer. The text says what to ask instead."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Desk:
    """All questions of one worker. Every method belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._answerers: dict[str, Answerer] = {}

    def add(self, question: str, answerer: Answerer) -> None:
        """``question`` is answered by ``answerer``. Raises ValueError when somebody answers it already."""
        if question in self._answerers:
            raise ValueError(f"{question!r} is answered already")
        self._answerers[question] = answerer

    async def answer(self, question: str, arguments: Mapping[str, Any]) -> Any:
        """The answer. Raises BadQuestion."""
        answerer = self._answerers.get(question)
        if answerer is None:
            raise BadQuestion(404, f"nobody answers {question!r}; questions are {', '.join(sorted(self._answerers))}")
        return await answerer(arguments)
