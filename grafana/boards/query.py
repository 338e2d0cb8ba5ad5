"""PromQL of the boards: expressions are written without selectors, and get those of the board's variables here.

``rate(popproxy_commands_total{outcome="ok"}[5m])`` becomes one about the chosen jobs and instances, and about the
chosen listeners or upstreams where the metric has such a label. Names and labels are looked up in metrics/names.py,
so a board cannot name what does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from popproxy.metrics.names import METRICS, PREFIX, Metric

RATE = "[$__rate_interval]"
RANGE = "[$__range]"

_SCOPE = ('job=~"$job"', 'instance=~"$instance"')
_CHOSEN = ("listener", "upstream")
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"'
    r"|(?P<name>\b(?:popproxy_|process_|python_)\w+|\bup\b(?=\{)|\bALERTS\b)(?P<braces>\{[^{}]*\})?"
    r"|\b(?:by|on|group_left) ?\((?P<labels>[^()]*)\)"
)
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"')
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_ALWAYS = frozenset({"job", "instance", "le", "alertname", "severity", "alertstate"})


def find(name: str) -> Metric:
    """The metric of the sample ``name``. Raises ValueError for a name that popproxy does not export."""
    for metric in METRICS.values():
        if name in {metric.full_name + suffix for suffix in _SUFFIXES[metric.kind]}:
            return metric
    raise ValueError(f"no metric of popproxy has samples named {name}; popproxy/metrics/names.py lists them")


def names(expression: str) -> Iterator[str]:
    """The sample names in ``expression``, also those that are not ours, in their order."""
    for found in _TOKEN.finditer(expression):
        if found["name"]:
            yield found["name"]


def scoped(expression: str, chosen: bool = True) -> str:
    """``expression`` with the selectors of the board's variables; of job and instance only, if not ``chosen``.

    Raises ValueError for a metric or a label that does not exist.
    """
    known = set(_ALWAYS)
    for name in names(expression):
        known |= set(find(name).label_names) if name.startswith(PREFIX) else {"generation", "version"}
    for found in _TOKEN.finditer(expression):
        for label in (found["labels"] or "").split(","):
            if label.strip() and label.strip() not in known:
                raise ValueError(f"{expression}: no metric in it has a label {label.strip()}")
    return _TOKEN.sub(lambda token: _with_scope(token, _CHOSEN if chosen else ()), expression)


def _with_scope(found: re.Match[str], chosen: tuple[str, ...]) -> str:
    name = found["name"]
    if not name:
        return found[0]
    own = (found["braces"] or "{}")[1:-1]
    matched = [match[1] for match in _MATCHER.finditer(own)]
    parts = [own] if own else []
    labels: tuple[str, ...] = ()
    if name.startswith(PREFIX):
        labels = find(name).label_names
        if unknown := set(matched) - set(labels) - _ALWAYS:
            raise ValueError(f"{name} has no label {', '.join(sorted(unknown))}, but {', '.join(labels)}")
    # Alerts about a whole job, or about none that is left, have no instance.
    if name != "ALERTS":
        parts += _SCOPE
    parts += [f'{label}=~"${label}"' for label in chosen if label in labels and label not in matched]
    return f"{name}{{{', '.join(parts)}}}"


def series(expression: str, legend: str) -> frozenset[str]:
    """What the series of ``expression`` may be called, where ``legend`` is no more than a label with an enum."""
    if not (label := re.fullmatch(r"\{\{(\w+)\}\}", legend)):
        return frozenset({legend})
    found: set[str] = set()
    for name in names(expression):
        if name.startswith(PREFIX) and label[1] in (metric := find(name)).label_names[len(metric.key) :]:
            position = metric.label_names.index(label[1]) - len(metric.key)
            found |= {row[position] for row in metric.rows}
    return frozenset(found)


def rate(name: str, where: str = "", by: str = "") -> str:
    """Events of a counter per second."""
    return _sum(f"rate(popproxy_{name}_total{_braces(where)}{RATE})", by)


def each(name: str, by: str, where: str = "") -> str:
    """Events per second by label, only of what has happened at all in the time that the board shows.

    Counters are exported before their first event, so that an alert sees it; a legend full of zeros says nothing.
    """
    counter = f"popproxy_{name}_total{_braces(where)}"
    return f"{_sum(f'rate({counter}{RATE})', by)} and {_sum(f'increase({counter}{RANGE} @ end())', by)} > 0"


def increase(name: str, where: str = "", by: str = "") -> str:
    """Events of a counter over the time that the board shows."""
    return _sum(f"increase(popproxy_{name}_total{_braces(where)}{RANGE})", by)


def total(name: str, where: str = "", by: str = "") -> str:
    """A gauge, added up."""
    return _sum(f"popproxy_{name}{_braces(where)}", by)


def quantile(share: float, name: str, by: str = "", where: str = "") -> str:
    """The quantile of a histogram now."""
    return _quantile(share, f"rate(popproxy_{name}_bucket{_braces(where)}{RATE})", by)


def quantile_shown(share: float, name: str, by: str = "") -> str:
    """The quantile of a histogram over the time that the board shows."""
    return _quantile(share, f"increase(popproxy_{name}_bucket{RANGE})", by)


def _quantile(share: float, buckets: str, by: str) -> str:
    # Without observations it is NaN, which a comparison takes away.
    return f"histogram_quantile({share}, {_sum(buckets, f'le, {by}' if by else 'le')}) >= 0"


def share(part: str, whole: str) -> str:
    """How much of ``whole`` is ``part``, both without labels; nothing where there is no whole, 0 where no part."""
    return f"({part} or vector(0)) / ({whole} > 0)"


def ours(expression: str) -> str:
    """``expression``, of a metric that other programs export too, for the instances of popproxy only."""
    return f"{expression} and on (job, instance) popproxy_build_info"


def cores() -> str:
    """How much of the processor time that an instance can use it uses: one core for each worker."""
    workers = "count by (job, instance) (popproxy_worker_up) or max by (job, instance) (popproxy_build_info)"
    return f"rate(process_cpu_seconds_total{RATE}) / on (job, instance) ({workers})"


def _sum(what: str, by: str) -> str:
    return f"sum by ({by}) ({what})" if by else f"sum({what})"


def _braces(where: str) -> str:
    return f"{{{where}}}" if where else ""
