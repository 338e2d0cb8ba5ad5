"""Texts with {placeholders}."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from string import Formatter


class Template:
    """A text whose places are filled. ``{{`` and ``}}`` stand for braces."""

    __slots__ = ("_parts", "literals", "needs")

    def __init__(self, text: str, known: Collection[str] | None) -> None:
        """``known``: the names that may stand in braces; None: any. Raises ValueError, never with the text in it."""
        self._parts: list[tuple[str, str | None]] = []
        try:
            for literal, name, form, conversion in Formatter().parse(text):
                if name is not None and (not name.isidentifier() or form or conversion):
                    raise LookupError("a place is a name in braces, like {user}; write {{ for a brace")
                if name is not None and known is not None and name not in known:
                    places = ", ".join(f"{{{place}}}" for place in sorted(known))
                    raise LookupError(f"{{{name}}} is no placeholder here; write one of {places}, or {{{{ for a brace")
                self._parts.append((literal, name))
        except LookupError as error:
            raise ValueError(str(error)) from None
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ or }}}} for a brace") from None
        self.needs = frozenset(name for _, name in self._parts if name is not None)
        """The placeholders it has."""
        self.literals = tuple(literal for literal, _ in self._parts if literal)
        """What stands between them."""

    def fill(self, values: Mapping[str, str | None]) -> str:
        """The text with ``values`` in its places; None is nothing."""
        return "".join(
            literal + ((values[name] or "") if name is not None else "") for literal, name in self._parts
        )
