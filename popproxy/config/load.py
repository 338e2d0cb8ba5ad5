"""From TOML to a Plan: every fault is found in one pass, then either all of them are raised or the plan is made."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from popproxy.api.names import ConfigNames
from popproxy.api.plugin import Fail, Plugin
from popproxy.config import adminchecks, budgets, checks, registry, storechecks, values
from popproxy.config.listener import Listener, Tls
from popproxy.config.models import Admin, Config, Log, Metrics, PluginTable, Protocol, When, default_name, plugin_use
from popproxy.config.overload import Overload
from popproxy.config.plan import Plan, compile_plan
from popproxy.config.problems import ConfigError, ConfigProblem, Wrong
from popproxy.config.report import Report
from popproxy.config.store import Store
from popproxy.config.translate import TABLE_KEYS, nearest, toml_hint
from popproxy.config.upstream import Upstream
from popproxy.config.values import Context
from popproxy.config.workers import Asked, count
from popproxy.config.workers import workers as asked_workers
from popproxy.core.chain import Subscriber
from popproxy.core.conditions import Condition, condition

M = TypeVar("M", bound=BaseModel)

_TABLES: dict[str, type[BaseModel]] = {
    "tls": Tls,
    "admin": Admin,
    "log": Log,
    "metrics": Metrics,
    "timeouts": budgets.Timeouts,
    "limits": budgets.Limits,
    "protocol": Protocol,
    "store": Store,
    "overload": Overload,
}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a config was made of, plain and fit to travel to another process, which makes the same plan of it.

    ``file`` is named in problems; ``text`` is its TOML, or None when ``data`` is what the command line asked for;
    ``base`` is where relative paths begin. Files that the config names (secrets, certificates) are not in it. Secrets
    may be: no repr shows them.
    """

    file: str
    text: str | None = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    base: str
    workers: Asked | None = None

    def load(self) -> Loaded:
        """The config. Raises ConfigError with every problem in it."""
        base = Path(self.base)
        if self.text is None:
            return load_data(self.data, self.file, "", base, None, self.workers)
        return _of_text(Path(self.file), self.text, base, self.workers)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config without faults. ``warnings`` are for the operator to read; ``plan`` is what runs; ``origin`` makes it
    again elsewhere."""

    config: Config
    plan: Plan
    warnings: tuple[ConfigProblem, ...] = ()
    origin: Origin = Origin("", None, {}, "")


@dataclass(slots=True)
class _Draft:
    """The parts that are valid by themselves, by index or name, so that checks between them go on."""

    tables: dict[str, BaseModel] = field(default_factory=dict)
    listeners: dict[int, Listener] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    plugins: dict[int, PluginTable] = field(default_factory=dict)
    made: dict[int, Plugin[Any]] = field(default_factory=dict)


def load(path: Path, workers: Asked | None = None) -> Loaded:
    """The config file at ``path``; ``workers``, when given, counts instead of what it says. Raises ConfigError with all
    problems in it."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        closed = isinstance(error, PermissionError)
        hint = "ask as root, or as the user that popproxy runs as" if closed else "name a readable file"
        raise _unusable(path, 0, f"cannot be read: {error.strerror or error}", hint) from None
    try:
        # Editors of Windows begin a file with a byte order mark.
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise _unusable(path, line, "is not UTF-8", "save the file as UTF-8") from None
    return _of_text(path, text, path.resolve().parent, workers)


def _of_text(path: Path, text: str, base: Path, workers: Asked | None) -> Loaded:
    try:
        return load_data(_parsed(path, text), str(path), text, base, path, workers)
    except RecursionError:
        raise _unusable(path, 0, "nests tables too deep", "see `popproxy config reference`") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        message = str(error)[: found.start()] if found else str(error)
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        column = f" at column {found[2]}" if found and found[2] else ""
        raise _unusable(path, line, f"is not TOML{column}: {message}", toml_hint(message)) from None
    except ValueError:
        raise _unusable(path, 0, "holds a number of thousands of digits", "write a smaller one") from None


def _unusable(path: Path, line: int, message: str, hint: str) -> ConfigError:
    return ConfigError([ConfigProblem(str(path), line, "", message, hint)])


def load_data(
    data: Mapping[str, Any], file: str, text: str, base: Path, source: Path | None = None, workers: Asked | None = None
) -> Loaded:
    """The config in ``data``, as tomllib gives it. Raises ConfigError with every problem in it.

    ``file`` is named in problems, ``text`` is the TOML for line numbers (empty: there is none), ``base`` is where
    relative paths begin; ``workers`` counts instead of what the config says.
    """
    report = Report(file, text, data)
    draft = _Draft()
    context = Context(base)
    for key in data:
        if key not in Config.model_fields:
            report.problem((key,), "unknown key", nearest(key, Config.model_fields))
    for name, model in _TABLES.items():
        if name in data:
            table = _valid(model, data[name], (name,), report, context)
            if table is not None:
                draft.tables[name] = table
    _listeners(data, draft, report, context)
    _upstreams(data, draft, report, context)
    _plugins(data, draft, report, context)
    default = _default_upstream(data, report)
    number = _workers(data, report) if workers is None else workers
    _check(data, draft, report)
    checks.workers(count(number), draft.made, draft.tables.get("store"), report)
    checks.shares(count(number), draft.listeners, draft.upstreams, report)
    if report.bad:
        raise report.error()
    config = Config.model_validate(
        {
            **draft.tables,
            "listener": tuple(draft.listeners.values()),
            "upstream": draft.upstreams,
            "default_upstream": default,
            "workers": number,
            "plugin": tuple(draft.plugins.values()),
        }
    )
    subscribers = [_subscriber(table, draft.made[index], config) for index, table in draft.plugins.items()]
    origin = Origin(file, None if source is None else text, data if source is None else {}, str(base), workers)
    return Loaded(config, compile_plan(config, subscribers, source), report.warnings, origin)


def _valid(model: type[M], value: object, path: tuple[str | int, ...], report: Report, context: Context) -> M | None:
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        report.invalid(path, model, error)
        return None


def _array(data: Mapping[str, Any], name: str, report: Report) -> list[object]:
    value = data.get(name, [])
    if isinstance(value, list):
        return value
    report.problem((name,), "is not a list of tables", f"write [[{name}]] in double brackets, once for each")
    return []


def _listeners(data: Mapping[str, Any], draft: _Draft, report: Report, context: Context) -> None:
    if not data.get("listener") and data.get("listener", []) == []:
        report.problem(
            ("listener",), "there is no listener", 'write [[listener]] with name = "pop3s", bind = ["[::]:995"] and '
            'tls = "implicit"'
        )
    for index, value in enumerate(_array(data, "listener", report)):
        listener = _valid(Listener, value, ("listener", index), report, context)
        if listener is not None:
            draft.listeners[index] = listener


def _upstreams(data: Mapping[str, Any], draft: _Draft, report: Report, context: Context) -> None:
    value = data.get("upstream", {})
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        report.problem(("upstream",), "is not a table of upstreams", "write [upstream.main], with a name of your own")
        return
    if not value:
        report.problem(
            ("upstream",),
            "there is no upstream",
            'write [upstream.main] with servers = ["pop3s://mail.example.com"]',
        )
    for name, table in value.items():
        try:
            values.name(name)
        except Wrong as wrong:
            report.wrong(("upstream", name), wrong)
        upstream = _valid(Upstream, table, ("upstream", name), report, context)
        if upstream is not None:
            draft.upstreams[name] = upstream


def _plugins(data: Mapping[str, Any], draft: _Draft, report: Report, context: Context) -> None:
    for index, value in enumerate(_array(data, "plugin", report)):
        path = ("plugin", index)
        table = _valid(PluginTable, value, path, report, context)
        if table is not None:
            draft.plugins[index] = table
        if isinstance(value, dict) and _is_use(value.get("use")):
            made = _made(value["use"], value, path, report, context)
            if made is not None:
                draft.made[index] = made


def _is_use(value: object) -> bool:
    try:
        plugin_use(value)
    except Wrong:
        return False
    return True


def _made(
    use: str, table: Mapping[str, Any], path: tuple[str | int, ...], report: Report, context: Context
) -> Plugin[Any] | None:
    """The plugin of one table, made with its options."""
    try:
        found = registry.find(use)
    except Wrong as wrong:
        report.wrong((*path, "use"), wrong)
        return None
    options = {key: value for key, value in table.items() if key not in TABLE_KEYS}
    hidden = registry.reveal_options(found.config_model, options, context.base)
    for key, fault in hidden:
        report.wrong((*path, key), fault)
    if hidden:
        return None
    valid = _valid(found.config_model, options, path, report, context)
    try:
        return None if valid is None else registry.made(found, valid, use)
    except Wrong as wrong:
        report.wrong(path, wrong)
        return None


def _default_upstream(data: Mapping[str, Any], report: Report) -> str | None:
    names = list(data["upstream"]) if isinstance(data.get("upstream"), dict) else []
    default = data.get("default_upstream")
    if default is None:
        if len(names) > 1:
            report.problem(
                ("default_upstream",),
                "is missing, and there are several upstreams",
                f'write default_upstream = "{names[0]}" above the first table',
            )
        return None
    if not isinstance(default, str):
        report.problem(("default_upstream",), "must be a string", 'write default_upstream = "main"')
        return None
    if default not in names:
        report.problem(("default_upstream",), f"there is no upstream {default!r}", nearest(default, names))
    return default


def _workers(data: Mapping[str, Any], report: Report) -> Asked:
    if "workers" not in data:
        return 1
    try:
        return asked_workers(data["workers"])
    except Wrong as wrong:
        report.wrong(("workers",), wrong)
        return 1


def _check(data: Mapping[str, Any], draft: _Draft, report: Report) -> None:
    """What only shows between the parts."""
    tls, admin = draft.tables.get("tls"), draft.tables.get("admin")
    fronts = _names(data, "listener")
    checks.names("listener", fronts, report)
    checks.names("plugin", _names(data, "plugin"), report)
    checks.listeners(draft.listeners, admin if isinstance(admin, Admin) else None, report)
    if isinstance(admin, Admin):
        adminchecks.admin(admin, report)
    checks.upstreams(draft.upstreams, draft.listeners, report)
    checks.plugins(draft.plugins, draft.made, [name for _, name in fronts], report)
    tables = data.get("upstream")
    upstreams = [name for name in tables if isinstance(name, str)] if isinstance(tables, dict) else []
    checks.plugin_names(draft.made, ConfigNames(tuple(upstreams), tuple(name for _, name in fronts)), report)
    if isinstance(tls, Tls) or "tls" not in data:
        checks.tls(tls if isinstance(tls, Tls) else Tls(), draft.listeners, report)
    log, budget, protocol, store = (draft.tables.get(name) for name in ("log", "timeouts", "protocol", "store"))
    if isinstance(log, Log):
        checks.log(log, report)
    if isinstance(budget, budgets.Timeouts):
        checks.timeouts(budget, report)
    if isinstance(protocol, Protocol):
        checks.protocol(protocol, report)
    if isinstance(store, Store):
        storechecks.store(store, report)


def _names(data: Mapping[str, Any], kind: str) -> list[tuple[tuple[str | int, ...], str]]:
    """Where each table of ``kind`` is named, and how; a plugin without a name is named by ``use``."""
    tables = data.get(kind)
    found: list[tuple[tuple[str | int, ...], str]] = []
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        name, use = (table.get("name"), table.get("use")) if isinstance(table, dict) else (None, None)
        if isinstance(name, str):
            found.append(((kind, index, "name"), name))
        elif name is None and isinstance(use, str):
            found.append(((kind, index, "use"), default_name(use)))
    return found


def _subscriber(table: PluginTable, plugin: Plugin[Any], config: Config) -> Subscriber:
    return Subscriber(
        name=table.called,
        plugin=plugin,
        fail=Fail(table.fail) if table.fail is not None else plugin.fail,
        deadline=table.deadline if table.deadline is not None else config.timeouts.hook,
        when=_condition(table.when) if table.when is not None else None,
    )


def _condition(when: When) -> Condition:
    return condition(when.user, when.domain, when.network, when.listener, when.tls)
