"""What is wrong in a config, where, and what to write instead. Problems are collected, never raised one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from popproxy.api.options import Wrong as Wrong


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One fault.

    ``file`` is a path or ``command line``; ``line`` begins at 1 and is 0 when there is none; ``key`` is the dotted
    key (empty for the file itself); ``hint`` says what to write instead. No field ever holds a secret.
    """

    file: str
    line: int
    key: str
    message: str
    hint: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return ": ".join(part for part in (where, self.key, text) if part)

    def as_dict(self) -> dict[str, str | int]:
        """The fields by name, for JSON."""
        return {
            "file": self.file,
            "line": self.line,
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
        }


class ConfigError(Exception):
    """A config that cannot be used; ``problems`` holds every fault that was found, in file order."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
