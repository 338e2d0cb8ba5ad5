"""Runs every fuzz target of this folder on a small seeded corpus, so that no target rots between real fuzz runs.

A target is a file ``fuzz_*.py`` with ``one_input(data)``, which states its invariant at the head of the file and
raises AssertionError when it does not hold, and, if it likes, ``SEEDS``, inputs that reach deep. By itself it runs
under atheris, see atheris_main.py.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TARGETS = sorted(Path(__file__).parent.glob("fuzz_*.py"))
INPUTS = 2_000
LONGEST = 400


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"popproxy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mutate(chance: random.Random, seed: bytes, others: list[bytes]) -> bytes:
    """``seed`` with one to four small wounds."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randint(0, len(data)), chance.choice((0, 1, 1, 2, 4, 16))
        match chance.randrange(6):
            case 0:
                data[at : at + length] = chance.randbytes(length)
            case 1:
                data[at:at] = chance.choice((b"\r\n", b"\x00", b" ", b"\n", b"=", b".", b"\xff", b"\r"))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at:]
            case _:
                other = chance.choice(others)
                data[at:] = other[chance.randint(0, len(other)) :]
    return bytes(data)


def corpus(name: str, seeds: list[bytes]) -> Iterator[bytes]:
    """The seeds themselves, then INPUTS inputs: wounded seeds, and one in five plain noise. The same every time."""
    chance = random.Random(name)
    yield b""
    yield from seeds
    for number in range(INPUTS):
        if seeds and number % 5:
            yield mutate(chance, chance.choice(seeds), seeds)
        else:
            yield chance.randbytes(chance.randint(0, LONGEST))


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_target(path: Path) -> None:
    target = load(path)
    assert target.__doc__, f"{path.name} does not state its invariant"
    for number, data in enumerate(corpus(path.stem, list(getattr(target, "SEEDS", [])))):
        try:
            target.one_input(data)
        except Exception as error:
            pytest.fail(f"{path.name}, input {number}: {data!r}: {error!r}")


def test_there_are_targets() -> None:
    assert {"fuzz_sasl", "fuzz_proxyline", "fuzz_xclient", "fuzz_clienthello"} <= {path.stem for path in TARGETS}


def test_the_corpus_is_the_same_every_time_and_of_its_size() -> None:
    seeds = [b"one", b"another"]
    inputs = list(corpus("x", seeds))
    assert inputs == list(corpus("x", seeds))
    assert len(inputs) == INPUTS + 1 + len(seeds)
    assert inputs[1:3] == seeds
