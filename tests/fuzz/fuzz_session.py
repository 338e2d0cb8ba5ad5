"""No tape of events breaks a session: no exception, what it holds is bounded, somebody is always to move, QUIT goes
upstream only when the client sent it behind its login, no credentials cross a clear leg, no secret is logged.

The input is the tape of tests/core/chaos.py: it chooses plan and plugins, then what peers, plugins and effects do,
octets included. A second run, with the invariants, of what tests/core/test_properties.py draws.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run by its path, a target finds only its own folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.core.chaos import Chaos, Tape

SEEDS: list[bytes] = [
    bytes.fromhex(tape)
    for tape in (
        "a69a9dfdc05250eaddf96ba943a68a99f73726180c2da38867af536f94582a64b44a8cbee1530376d7610113ff05f3d3",
        "5976bc967f930807c7dcc7f2a1bf26505a5006b6369b1eb0190dbc4d585013c4864c8b4c033f4e2c4f43477db3b0adaa",
        "5f57b01ed58903e14f99d9845db45d933ef659394761df8e43e4a700a1dbc339a7ddc7966e33bfdb49957a93bfb5d3df",
        "d547f08d0786f476a23cfbb2547fd1018fff2fbfe1a19da556821fbea51c9de2c0bf871a0bca930a1846223238f6fcc4",
        "2e3c84bf9e22c9bb23faf1406d6e8735c94f396b8e4967333de47c59ea20715ad47bd60bb9cb9aa353aa05c0502f506a",
        "aefd26bc8bb9f55d2777c98db7883470d5b238f59e5e999d32e24ea3eaa276a0421236eb79c5d0b7fe96d089cb2d7dde",
        "9fcc71f8a3cc79c62b3701a86699525840b1576b9b6d53dcaddb3cefad3112c26f651595bf40c85b526ed7ac8a9ef802",
        "f051005d321ec4b810d0fa47d041785b2d0397cf186b434b1700d7b5ac1246c1eda79ec7fe019cdd5d459a0575dfa52e",
        "6c5032f4ce65b0a5546186bd11cfbad5a4072e088896a368bec9e8f2591e1c87ce092f7c45ccf5066e9ffa8dce3368df",
        "833cbafc18c6bfde2fd801334f8697e47f70dd99d2a909c07545045e1f9aefd2a36489dd1e94ebb834b482a68cb6b2ad",
        "ceca3f8d696359149de62999fe5a95b8d05dbb4e0ca207d5ca580aaaf468c0953d150a7d246a39d3309386f1f29f7a36",
        "1a5a848e001e02474295a644b7feed198f375e3e4f2684079de4e9cec99bcf2168b81525dc221f13a5f659b9b207e742",
    )
]


def one_input(data: bytes) -> None:
    """See the head of this file. Raises AssertionError, or whatever the session raised."""
    Chaos(Tape(data)).run()


if __name__ == "__main__":
    from atheris_main import run

    run(one_input, SEEDS)
