"""What would happen to a user at an address: the plan asked the questions a session asks, with nothing connected.

Pure: a Plan in, values out, a text renderer beside them. Nothing of a plugin's options is shown, so no secret is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from popproxy.api.plugin import HOOKS
from popproxy.api.views import SessionView, TlsView
from popproxy.config.plan import Bind, ListenerPlan, Plan, UpstreamPlan
from popproxy.core.chain import Chain
from popproxy.core.conditions import Condition
from popproxy.core.entrance import shown
from popproxy.core.mechanisms import TOKENS
from popproxy.run.placement import Placement, bounds, health, placement, told
from popproxy.run.steps import StepView, text, walk

Address = IPv4Address | IPv6Address

_BEFORE_LOGIN = frozenset({"on_connect"})
"""Hooks that run before the user is known; on_capabilities runs before and after."""


@dataclass(frozen=True, slots=True)
class PluginView:
    """A plugin in the chain of one hook. ``deadline`` (seconds) is None for a hook that cannot be awaited."""

    name: str
    fail: str
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A plugin whose ``when`` does not hold, and the keys that do not."""

    name: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server of the upstream: its URL, and its TLS in words."""

    url: str
    tls: str


@dataclass(frozen=True, slots=True)
class UpstreamView:
    """An upstream to which the login leads: its servers, and in words how it is logged in to, what of the client it is
    told, its bounds and its health. ``routed_by`` names plugins that may route it to one of ``others``: they look at
    logins and do not explain themselves."""

    name: str
    servers: tuple[ServerView, ...]
    login: str
    bounds: str
    health: str
    told: str
    routed_by: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListenerView:
    """One listener. ``chain`` holds plugins by hook in call order, hooks nobody uses left out; ``steps`` what they
    make of the name and the upstream, ``login``, ``upstream`` and ``placement`` where it leads (None: refused)."""

    name: str
    bind: tuple[str, ...]
    tls: str
    connects: bool
    connects_because: str
    session_tls: bool
    logs_in: bool
    logs_in_because: str
    chain: dict[str, tuple[PluginView, ...]]
    skipped: tuple[Skipped, ...]
    steps: tuple[StepView, ...]
    login: str | None
    upstream: str | None
    placement: Placement | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. ``at``, ``mechanism`` and ``groups`` are what was assumed; ``at`` is ISO 8601 in UTC, empty for
    none. ``upstreams`` are those the listeners lead to. Timeouts in seconds, limits in octets and counts."""

    user: str
    ip: str
    at: str
    mechanism: str | None
    groups: tuple[str, ...]
    listeners: tuple[ListenerView, ...]
    upstreams: tuple[UpstreamView, ...]
    timeouts: dict[str, float]
    limits: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is taken for given of a session: when it ``began`` (seconds since the epoch), how the client logs in (None:
    nothing is known of that), and the groups that a plugin in front of all others would name."""

    began: float = 0.0
    mechanism: str | None = None
    groups: tuple[str, ...] = ()


def explain(
    plan: Plan,
    user: str,
    ip: str,
    listener: str | None = None,
    tls: bool | None = None,
    assumed: Assumed | None = None,
) -> Explanation:
    """What happens to ``user`` (octets that are no UTF-8 as surrogates) who connects from ``ip`` (an IP address).

    ``listener`` limits the answer to one. ``tls`` None assumes that the client uses TLS wherever it can. Raises
    ValueError for what is no address, KeyError for an unknown listener.
    """
    assumed = assumed or Assumed()
    address = ip_address(ip)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    chosen = [item for item in plan.listeners if listener in (None, item.name)]
    if not chosen:
        raise KeyError(listener)
    listeners = tuple(_listener(plan, item, user, address, tls, assumed) for item in chosen)
    leads = dict.fromkeys(item.upstream for item in listeners if item.upstream is not None)
    return Explanation(
        user=text(user),
        ip=str(address),
        at=datetime.fromtimestamp(assumed.began, UTC).isoformat(timespec="seconds") if assumed.began else "",
        mechanism=assumed.mechanism,
        groups=tuple(text(group) for group in assumed.groups),
        listeners=listeners,
        upstreams=tuple(_upstream(plan, name, listeners) for name in leads),
        timeouts={name: float(value) for name, value in asdict(plan.timeouts).items()},
        limits=asdict(plan.limits),
    )


def _listener(
    whole: Plan, plan: ListenerPlan, name: str, address: Address, asked: bool | None, assumed: Assumed
) -> ListenerView:
    secure = _secure(plan, asked)
    connects, connects_because = _connects(plan, address)
    logs_in, logs_in_because = _logs_in(plan, secure)
    user = shown(name)
    view = _view(plan, user, address, secure)
    view.began, view.mechanism, view.groups = assumed.began, assumed.mechanism, frozenset(assumed.groups)
    steps = walk(whole, plan, view, name)
    refused = bool(steps) and steps[-1].refused
    login, where, key = text(name), whole.default_upstream, None
    if steps:
        login, where, key = steps[-1].user, steps[-1].upstream, steps[-1].key
    skipped = tuple(
        Skipped(subscriber.name, tuple(_unmet(subscriber.when, view, user)))
        for subscriber in plan.session.chain.subscribers
        if subscriber.when is not None and not subscriber.when.applies(view, user)
    )
    return ListenerView(
        name=plan.name,
        bind=tuple(str(bind) for bind in plan.bind),
        tls=plan.tls,
        connects=connects,
        connects_because=connects_because,
        session_tls=secure,
        logs_in=logs_in,
        logs_in_because=logs_in_because,
        chain=dict(_chain(plan, user, address, secure)),
        skipped=skipped,
        steps=steps,
        login=None if refused else login,
        upstream=None if refused else where,
        placement=None if refused else placement(whole.upstreams[where], key if key is not None else login.casefold()),
    )


def _secure(plan: ListenerPlan, asked: bool | None) -> bool:
    """Whether the client's leg has TLS when it logs in. A PROXY header may vouch for TLS that ended before us."""
    if plan.tls == "implicit":
        return True
    if plan.tls == "starttls":
        return asked is not False
    return asked is True and bool(plan.proxy_protocol)


def _connects(plan: ListenerPlan, address: Address) -> tuple[bool, str]:
    if plan.proxy_protocol:
        networks = ", ".join(str(network) for network in plan.proxy_protocol)
        if any(address in network for network in plan.proxy_protocol):
            return True, f"a trusted sender of PROXY headers ({networks}); without a header it is closed"
        return False, f"directly; through a load balancer in {networks} that announces it in a PROXY header it may"
    if any(bind.family == "inet" and _reaches(bind, address) for bind in plan.bind):
        return True, "no network is shut out"
    return False, f"the listener is bound to {', '.join(str(bind) for bind in plan.bind)} only"


def _reaches(bind: Bind, address: Address) -> bool:
    """Whether a client at ``address`` can reach ``bind``."""
    host = ip_address(bind.host)
    if host.is_loopback:
        return address.is_loopback and address.version == host.version
    if host.is_unspecified and host.version == 6 and not bind.v6only:
        return True
    return host.version == address.version


def _logs_in(plan: ListenerPlan, secure: bool) -> tuple[bool, str]:
    if secure:
        return True, "the leg has TLS"
    if plan.session.auth_before_tls:
        return True, 'auth_before_tls = "allow": the password travels in clear'
    first = "it must send STLS first" if plan.tls == "starttls" else "and the listener has no TLS"
    return False, f'auth_before_tls = "refuse": {first}'


def _view(plan: ListenerPlan, user: str | None, address: Address, secure: bool) -> SessionView:
    tls = TlsView(version="TLSv1.3", by_proxy=plan.tls == "off") if secure else None
    return SessionView(id="explain", listener=plan.name, client=str(address), tls=tls, user=user)


def _chain(
    plan: ListenerPlan, user: str, address: Address, secure: bool
) -> Iterator[tuple[str, tuple[PluginView, ...]]]:
    """Plugins by hook in call order; before login a condition on the user or the domain does not hold yet."""
    chain = plan.session.chain
    at_accept = secure and plan.tls != "starttls"
    accepted = chain.select(_view(plan, None, address, at_accept), None)
    unknown = chain.select(_view(plan, None, address, secure), None)
    known = chain.select(_view(plan, user, address, secure), user)
    for hook in HOOKS:
        if hook in _BEFORE_LOGIN:
            rows = [(hook, accepted)]
        elif hook == "on_capabilities":
            rows = [(f"{hook} (before login)", unknown), (f"{hook} (after login)", known)]
        else:
            rows = [(hook, known)]
        for label, selected in rows:
            plugins = _plugins(selected, hook)
            if plugins:
                yield label, plugins


def _plugins(chain: Chain, hook: str) -> tuple[PluginView, ...]:
    return tuple(
        PluginView(
            entry.subscriber.name, entry.subscriber.fail.value, entry.subscriber.deadline if entry.awaits else None
        )
        for entry in chain[hook]
    )


def _unmet(condition: Condition, view: SessionView, user: str) -> Iterator[str]:
    """The keys of ``when`` that do not hold."""
    alone = {
        "user": Condition(users=condition.users),
        "domain": Condition(domains=condition.domains),
        "network": Condition(networks=condition.networks),
        "listener": Condition(listeners=condition.listeners),
        "tls": Condition(tls=condition.tls),
    }
    return (key for key, part in alone.items() if not part.applies(view, user))


def _upstream(plan: Plan, name: str, listeners: Sequence[ListenerView]) -> UpstreamView:
    upstream = plan.upstreams[name]
    silent = [step.plugin for listener in listeners for step in listener.steps if step.silent or step.failed]
    return UpstreamView(
        name=upstream.name,
        servers=tuple(ServerView(server.url, _server_tls(upstream, server.tls)) for server in upstream.servers),
        login=_login(upstream),
        bounds=bounds(upstream),
        health=health(upstream),
        told=told(upstream),
        routed_by=tuple(dict.fromkeys(silent)),
        others=tuple(other for other in plan.upstreams if other != name),
    )


def _server_tls(upstream: UpstreamPlan, tls: str) -> str:
    if tls == "off":
        return "no TLS: passwords travel in clear"
    kind = "TLS from the first octet" if tls == "implicit" else "STLS, required"
    if not upstream.verify:
        return f"{kind}; the certificate is not verified"
    store = str(upstream.ca_file) if upstream.ca_file else "the system's store"
    name = f" for {upstream.server_name}" if upstream.server_name else ""
    return f"{kind}; the certificate is verified{name} against {store}"


def _login(upstream: UpstreamPlan) -> str:
    policy = upstream.policy
    if policy.mechanism == "user":
        return "USER and PASS"
    first = {
        "auto": "in one line when the server announces SASL and it fits",
        "never": "in two steps",
        "always": "in one line",
    }[policy.initial_response]
    if policy.mechanism == "auto":
        return f"USER and PASS; AUTH ({first}) for a token, or when the server announces only SASL"
    name = policy.mechanism.upper()
    return f"AUTH {name}{' with a token' if name in TOKENS else ''}, {first}"


def render(explanation: Explanation) -> str:
    """The answer as text."""
    lines = [f"{explanation.user} from {explanation.ip}"]
    if explanation.at:
        lines.append(f"at {explanation.at}")
    if explanation.mechanism is not None:
        lines.append(f"logs in by {explanation.mechanism}")
    if explanation.groups:
        lines.append(f"in groups {', '.join(explanation.groups)}")
    for listener in explanation.listeners:
        lines += ["", *_listener_lines(listener)]
    for upstream in explanation.upstreams:
        lines += ["", *_upstream_lines(upstream)]
    lines.append("")
    lines.append("timeouts  " + "  ".join(f"{name} {value:g}s" for name, value in explanation.timeouts.items()))
    lines.append("limits    " + "  ".join(f"{name} {value}" for name, value in explanation.limits.items()))
    return "\n".join(lines) + "\n"


def _listener_lines(listener: ListenerView) -> list[str]:
    lines = [
        f"listener {listener.name}  {', '.join(listener.bind)}  tls {listener.tls}",
        f"  connect  {'yes' if listener.connects else 'no'}: {listener.connects_because}",
        f"  login    {'yes' if listener.logs_in else 'no'}: {listener.logs_in_because}",
    ]
    lines += [f"  skipped  {plugin.name}: when {', '.join(plugin.because)}" for plugin in listener.skipped]
    if listener.chain:
        lines.append("  chain")
        width = max(len(hook) for hook in listener.chain)
        for hook, plugins in listener.chain.items():
            lines.append(f"    {hook:<{width}}  " + "  >  ".join(_plugin_text(plugin) for plugin in plugins))
    else:
        lines.append("  chain    no plugin")
    lines += _steps_lines(listener.steps)
    end = "refused" if listener.login is None else f"{listener.login} at {listener.upstream}"
    lines.append(f"  goes as  {end}")
    if listener.placement is not None:
        servers, because = listener.placement.servers, listener.placement.because
        lines.append(f"  to       {', '.join(servers)}: {because}")
    return lines


def _steps_lines(steps: Sequence[StepView]) -> Iterator[str]:
    """A line for each step, the name and the upstream behind each plugin."""
    if steps:
        yield "  steps"
    width = max((len(step.plugin) for step in steps), default=0)
    for step in steps:
        said = list(step.steps)
        if step.failed:
            said.append(f"cannot be explained: {step.failed}")
        if step.silent:
            said.append("does not explain itself: it may refuse, rename or route")
        groups = f", groups {', '.join(step.groups)}" if step.groups else ""
        said.append("= refused" if step.refused else f"= {step.user} at {step.upstream}{groups}")
        for place, line in enumerate(said):
            yield f"    {'' if place else step.plugin:<{width}}  {line}"


def _plugin_text(plugin: PluginView) -> str:
    deadline = f", {plugin.deadline:g}s" if plugin.deadline is not None else ""
    return f"{plugin.name} (fail {plugin.fail}{deadline})"


def _upstream_lines(upstream: UpstreamView) -> list[str]:
    lines = [f"upstream {upstream.name}"]
    lines += [f"  server   {server.url}  {server.tls}" for server in upstream.servers]
    lines.append(f"  login    {upstream.login}")
    lines.append(f"  client   {upstream.told}")
    lines.append(f"  sessions {upstream.bounds}")
    lines.append(f"  health   {upstream.health}")
    if upstream.routed_by and upstream.others:
        lines.append(f"  or       {', '.join(upstream.others)}, where {', '.join(upstream.routed_by)} may route it")
    return lines
