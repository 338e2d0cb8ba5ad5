"""``workers``: how many processes serve, and what of the config becomes less for each of them.

Law: a bound on what the machine takes holds for all workers together. The kernel deals clients out by hash, so shares
are rounded up: together they may exceed the bound by less than one for each worker, and never fall below it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PlainValidator, WithJsonSchema

from popproxy.api.options import Wrong, shown
from popproxy.config.overload import Share

if TYPE_CHECKING:
    from popproxy.config.plan import ListenerPlan, OverloadPlan, Plan, UpstreamPlan

MOST = 64
"""Workers there can be."""

Asked = int | Literal["auto"]


def workers(value: object) -> Asked:
    """What ``workers`` may hold. Raises Wrong."""
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise Wrong(f"{shown(value)} is no number of workers", f'write a number from 1 to {MOST}, or "auto"')
    return value


Workers = Annotated[
    Asked,
    PlainValidator(workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST}, {"const": "auto"}]}),
]


def count(asked: Asked) -> int:
    """How many processes that is: for ``auto`` one on each processor that this process may use, 64 at most."""
    return min(MOST, len(os.sched_getaffinity(0))) if asked == "auto" else asked


def share(bound: int, number: int) -> int:
    """What one of ``number`` workers gets of ``bound``, rounded up; 0, which is no bound, stays 0."""
    return -(-bound // number)


def divided(plan: Plan) -> Plan:
    """What one worker of ``plan.workers`` runs by."""
    if plan.workers == 1:
        return plan
    return replace(
        plan,
        listeners=tuple(_listener(listener, plan.workers) for listener in plan.listeners),
        upstreams={name: _upstream(upstream, plan.workers) for name, upstream in plan.upstreams.items()},
        overload=_overload(plan.overload, plan.workers),
    )


def _listener(plan: ListenerPlan, number: int) -> ListenerPlan:
    return replace(plan, limit=share(plan.limit, number))


def _upstream(plan: UpstreamPlan, number: int) -> UpstreamPlan:
    return replace(
        plan,
        servers=tuple(replace(server, max_sessions=share(server.max_sessions, number)) for server in plan.servers),
        max_sessions=share(plan.max_sessions, number),
        queue=share(plan.queue, number),
    )


def _overload(plan: OverloadPlan, number: int) -> OverloadPlan:
    memory = plan.memory
    if memory is None:
        return plan
    return replace(plan, memory=Share(memory.of / number) if isinstance(memory, Share) else share(memory, number))
