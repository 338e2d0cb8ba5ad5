"""Runs one fuzz target under atheris; only the ``__main__`` block of a target imports this.

``python tests/fuzz/fuzz_sasl.py -max_total_time=60`` (any libFuzzer option). Without a corpus folder among the
arguments the corpus is kept in the system's folder for temporary files, so that a later run goes on where it was.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def run(one_input: Callable[[bytes], None], seeds: list[bytes]) -> None:
    """Fuzzes until the options say stop; ends the process. ``seeds`` join the corpus first."""
    corpus = Path(tempfile.gettempdir()) / "popproxy-fuzz" / Path(sys.argv[0]).stem
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    # By name: atheris is not among the project's dependencies and has no type stubs.
    atheris = importlib.import_module("atheris")
    atheris.instrument_all()
    atheris.Setup([*sys.argv, str(corpus)], one_input)
    atheris.Fuzz()
