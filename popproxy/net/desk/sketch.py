"""Who is heaviest, in bounded memory: the Space-Saving sketch (Metwally, Agrawal, El Abbadi, 2005), weighted.

Law: of a stream of weights that add up to N, a sketch with k places holds every key whose weight is above N / k; what
it says of a key is never too low, and too high by at most the ``error`` beside it, which is at most N / k.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heavy:
    """A key and what is known of its weight: at least ``count - error``, at most ``count``."""

    key: str
    count: int
    error: int


class Sketch:
    """At most ``places`` keys."""

    __slots__ = ("_counts", "_errors", "_places", "total")

    def __init__(self, places: int) -> None:
        self._places = places
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self.total = 0
        """The sum of all weights."""

    def add(self, weights: Mapping[str, int]) -> None:
        """Each of these keys weighs so much more; none may be below 0. Many keys at once cost much less than many
        calls do."""
        counts, errors = self._counts, self._errors
        self.total += sum(weights.values())
        # What is not here may have weighed as much as this before.
        floor = self.floor
        for key, weight in weights.items():
            if key in counts:
                counts[key] += weight
            elif weight:
                counts[key] = floor + weight
                if floor:
                    errors[key] = floor
        # Each that came brought the floor along, and one goes that weighs at least as much: the sum stays below N.
        if len(counts) > self._places:
            for key in sorted(counts, key=counts.__getitem__)[: len(counts) - self._places]:
                del counts[key]
                errors.pop(key, None)

    @property
    def floor(self) -> int:
        """What a key that is not here weighs at most."""
        return min(self._counts.values()) if len(self._counts) >= self._places else 0

    def copy(self) -> Sketch:
        """Another one that knows the same."""
        other = Sketch(self._places)
        other._counts, other._errors, other.total = self._counts.copy(), self._errors.copy(), self.total
        return other

    def told(self) -> dict[str, object]:
        """All of it as plain data, for ``merged``."""
        keys = {key: [count, self._errors.get(key, 0)] for key, count in self._counts.items()}
        return {"keys": keys, "floor": self.floor, "total": self.total}


def merged(sketches: Iterable[dict[str, object]]) -> tuple[list[Heavy], int, int]:
    """What several sketches know together, the heaviest first; what a key that is not named weighs at most; and the sum
    of all weights. ``sketches`` are what told() gives. The law holds for the sum of the streams as for each."""
    counts: dict[str, int] = {}
    errors: dict[str, int] = {}
    floor = total = 0
    parts: list[tuple[dict[str, list[int]], int]] = []
    for sketch in sketches:
        keys, own = sketch["keys"], sketch["floor"]
        assert isinstance(keys, dict) and isinstance(own, int) and isinstance(sketch["total"], int)
        parts.append((keys, own))
        floor += own
        total += sketch["total"]
    for keys, own in parts:
        for key, (count, error) in keys.items():
            # Where a key is not named it may still weigh as much as the floor there.
            counts[key] = counts.get(key, floor) - own + count
            errors[key] = errors.get(key, floor) - own + error
    found = [Heavy(key, count, errors[key]) for key, count in counts.items()]
    return sorted(found, key=lambda one: (-one.count, one.key)), floor, total
