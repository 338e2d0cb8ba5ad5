"""docs/commands.md: every command, written from the options that the command line really has.

``python -m popproxy.run.manual > docs/commands.md`` writes it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from popproxy.run.asked import (
    CONFIG_VARIABLE,
    EX_CONFIG,
    EX_DATAERR,
    EX_INTERRUPTED,
    EX_IOERR,
    EX_OK,
    EX_UNAVAILABLE,
    EX_USAGE,
    EX_WRONG,
    SYSTEM_CONFIG,
    WAYS,
)
from popproxy.run.cli import parser

_HEAD = f"""\
# Commands

`popproxy COMMAND --help` says the same. Results go to standard output, everything else to standard error; `--json`
prints what scripts read. A config that is not named is the file ${CONFIG_VARIABLE} names, else `{SYSTEM_CONFIG}`.

```
{WAYS}
```

| exit code | means |
|---|---|
| {EX_OK} | done |
| {EX_WRONG} | it is not so: nothing matched, it was refused, the doctor found something |
| {EX_USAGE} | the command line cannot be used; the text says what to write |
| {EX_DATAERR} | what was given cannot be used: a users file, a config that cannot be put in force |
| {EX_UNAVAILABLE} | nobody answers, or something that is needed is not there |
| {EX_IOERR} | a file or a pipe failed |
| {EX_CONFIG} | the config is wrong; every mistake is printed |
| {EX_INTERRUPTED} | Ctrl-C, before it was done |
"""


def manual() -> str:
    """The page."""
    return "\n".join([_HEAD, *_commands(parser())])


def _commands(made: argparse.ArgumentParser) -> Iterator[str]:
    """The commands of a parser, each followed by its own."""
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield from _command(inner, told.get(name, ""))
                yield from _commands(inner)


def _command(made: argparse.ArgumentParser, short: str) -> Iterator[str]:
    actions = [action for action in made._actions if not isinstance(action, argparse._HelpAction)]
    named = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    level = "##" if made.prog.count(" ") == 1 else "###"
    yield f"{level} {made.prog}\n"
    yield f"    {' '.join([made.prog, *map(_place, named), *(['[options]'] if options else [])])}\n"
    description = made.description or f"{short[:1].upper()}{short[1:]}."
    yield f"{description}{f' {made.epilog}' if made.epilog else ''}\n"
    rows = [_row(action) for action in [*named, *options] if not isinstance(action, argparse._SubParsersAction)]
    if rows:
        yield "\n".join(["| option | what |", "|---|---|", *rows]) + "\n"


def _place(action: argparse.Action) -> str:
    """What is written without a name, in the line of usage."""
    name = _value(action)
    if action.nargs == "*":
        return f"[{name} ...]"
    optional = action.nargs == "?" or (isinstance(action, argparse._SubParsersAction) and not action.required)
    return f"[{name}]" if optional else name


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices is not None else action.dest.upper()


def _row(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or _value(action)
    if action.option_strings and action.nargs != 0:
        name += f" {_value(action)}"
    text = (action.help or "") % {"default": action.default}
    need = "" if not action.required or not action.option_strings else " (must be written)"
    return f"| `{_cell(name)}` | {_cell(text)}{need} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(manual())
