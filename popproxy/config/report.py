"""Where problems are gathered while a config is checked: paths in the data become lines and dotted keys."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from popproxy.config.locate import Locator, Path
from popproxy.config.problems import ConfigError, ConfigProblem, Wrong
from popproxy.config.translate import words


class Report:
    """Problems and warnings of one config. ``text`` is its TOML, empty when it was not read from a file."""

    def __init__(self, file: str, text: str, data: Mapping[str, object]) -> None:
        self.file = file
        self.data = data
        self._locator = Locator(text) if text else None
        self._problems: list[ConfigProblem] = []
        self._warnings: list[ConfigProblem] = []

    def problem(self, path: Path, message: str, hint: str) -> None:
        """Something that must be corrected."""
        self._problems.append(self._made(path, message, hint))

    def warn(self, path: Path, message: str, hint: str) -> None:
        """Something that works and that an operator should know."""
        self._warnings.append(self._made(path, message, hint))

    def wrong(self, path: Path, wrong: Wrong) -> None:
        """A value that its parser refused."""
        self.problem(path, wrong.message, wrong.hint)

    def invalid(self, path: Path, model: type[BaseModel], error: ValidationError) -> None:
        """What validating the table at ``path`` against ``model`` found."""
        details = error.errors(include_url=False)
        for detail in details:
            if detail["type"] == "too_short" and any(_below(other["loc"], detail["loc"]) for other in details):
                continue  # pydantic counts the valid entries only; the others have been named
            keys = self._keys(path, detail["loc"])
            self.problem((*path, *keys), *words(detail, model, keys))

    @property
    def bad(self) -> bool:
        """Whether there is any problem."""
        return bool(self._problems)

    @property
    def warnings(self) -> tuple[ConfigProblem, ...]:
        """Warnings in the order of lines."""
        return tuple(sorted(self._warnings, key=lambda warning: warning.line))

    def error(self) -> ConfigError:
        """All problems in the order of lines, each once."""
        return ConfigError(sorted(dict.fromkeys(self._problems), key=lambda problem: problem.line))

    def _made(self, path: Path, message: str, hint: str) -> ConfigProblem:
        line = self._locator.line(path) if self._locator is not None and path else 0
        return ConfigProblem(self.file, line, self._key(path), message, hint)

    def _keys(self, path: Path, location: Path) -> Path:
        """The part of pydantic's location that stands in the data: tags of unions and the like are left out."""
        keys: list[str | int] = []
        for place, key in enumerate(location):
            around = self._at((*path, *keys))
            inside = self._has(around, key)
            last = place == len(location) - 1
            if inside or (last and isinstance(around, Mapping) and key != "[key]"):
                keys.append(key)
        return tuple(keys)

    @staticmethod
    def _has(around: object, key: str | int) -> bool:
        if isinstance(around, Mapping):
            return key in around
        return isinstance(around, list | tuple) and isinstance(key, int) and key < len(around)

    def _at(self, path: Path) -> object:
        here: object = self.data
        for key in path:
            if isinstance(here, Mapping):
                here = here.get(key)
            elif isinstance(here, list | tuple) and isinstance(key, int) and key < len(here):
                here = here[key]
            else:
                return None
        return here

    def _key(self, path: Path) -> str:
        """``listener[pop3s].bind``: elements by their name, or by number from #1 when they have none."""
        text = ""
        for depth, key in enumerate(path):
            if isinstance(key, int):
                text += f"[{self._label(path[: depth + 1], key)}]"
            else:
                text += f".{key}" if text else key
        return text

    def _label(self, path: Path, index: int) -> str:
        element = self._at(path)
        if isinstance(element, Mapping):
            for name in ("name", "use"):
                label = element.get(name)
                if isinstance(label, str) and label.isprintable() and 0 < len(label) <= 70:
                    return label
        return f"#{index + 1}"


def _below(inner: Path, outer: Path) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer
