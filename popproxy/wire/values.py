"""How values are made that nobody changes and sessions make by the dozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass with slots that is compared by what is in it and must not be changed, which the type checker sees to.

    ``frozen=True`` would see to it again at run time, by a call for each field: of a login that was one twelfth. What
    plugins get is frozen.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
