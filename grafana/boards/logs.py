"""The lines of the log in Loki: who exactly. Users and addresses are never labels of metrics, so they are here.

Nobody has seen this board with a Loki yet: none was to be had where it was written. It is the only one that asks for
fields of popproxy/run/events.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard

from grafana.boards.board import Row, finished, placed
from grafana.boards.panels import LOKI, LogQuery, above, bars, lines, text, tile

_LINES = '{job=~"$job"} | json'
_THIS = ' | user=~"$user" | client=~"$client"'
_EVENT = '{job=~"$job"} | json event="event"'


@dataclass(frozen=True, slots=True)
class LogBoard:
    """The board that asks Loki."""

    uid: str
    title: str
    description: str
    first: Sequence[dashboard.Panel]
    rows: Sequence[Row]

    def build(self) -> dashboard.Dashboard:
        """As the SDK has it."""
        return finished(self.uid, self.title, self.description, placed(self.first, self.rows), _variables(), _notes())


def _variables() -> list[dashboard.VariableModel]:
    return [
        dashboard.VariableModel(
            type_val=dashboard.VariableType.DATASOURCE,
            name="datasource",
            label="Data source",
            description="The Loki that has popproxy's log lines.",
            query="loki",
        ),
        dashboard.VariableModel(
            type_val=dashboard.VariableType.QUERY,
            name="job",
            label="Job",
            description="Label job of the log's stream.",
            query="label_values(job)",
            definition="label_values(job)",
            datasource=LOKI,
            multi=True,
            include_all=True,
            all_value=".+",
            current=dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]),
            refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
            sort=dashboard.VariableSort.ALPHABETICAL_ASC,
        ),
        _typed("user", "User", "Regular expression of user names, as the log shows them: plain, or hashed.", ".*"),
        _typed("client", "Client", "Regular expression of clients' addresses.", ".*"),
        _typed("session", "Session", "Id of one session, as it stands in every line about it.", ".+"),
    ]


def _typed(name: str, label: str, description: str, value: str) -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.TEXTBOX,
        name=name,
        label=label,
        description=description,
        query=value,
        current=dashboard.VariableOption(selected=True, text=value, value=value),
    )


def _notes() -> list[dashboard.AnnotationQuery]:
    return [
        dashboard.AnnotationQuery(
            name="Starts and configs",
            datasource=LOKI,
            enable=True,
            icon_color="blue",
            expr=_LINES + ' | event=~"started|config_loaded|config_failed|stopping"',
            title_format="{{event}}",
            text_format="{{job}}",
        )
    ]


def _count(event: str, period: str = "$__range") -> str:
    return f'count_over_time({_EVENT} | event=~"{event}" [{period}])'


def _top(label: str, event: str) -> LogQuery:
    counted = f'count_over_time({_LINES} | event="{event}"{_THIS} [$__range])'
    return LogQuery(f"topk(10, sum by ({label}) ({counted}))", f"{{{{{label}}}}}")


def _most(label: str, field: str) -> LogQuery:
    added = f'sum_over_time({_LINES} | event="session"{_THIS} | unwrap {field} [$__range])'
    return LogQuery(f"topk(10, sum by ({label}) ({added}))", f"{{{{{label}}}}}")


BOARD = LogBoard(
    uid="popproxy-logs",
    title="popproxy / Logs and users",
    description="Who exactly: users, addresses and single sessions, from popproxy's JSON log in Loki. Unproven: this "
    "board has been checked for its form, but nobody has seen it with a Loki yet. Without Loki: popproxy "
    "top, who and tap.",
    first=(
        tile(
            "Failed logins",
            "Refused logins in the time shown. The lists below say whose and from where; for one user type the name "
            "above.",
            "none", LogQuery(f"sum({_count('login_failed')})"), w=6, decimals=0, trend=False,
        ),
        tile(
            "Sessions",
            "Sessions that ended in the time shown. Each has written one line that tells everything about it.",
            "none", LogQuery(f"sum({_count('session')})"), w=6, decimals=0, trend=False,
        ),
        tile(
            "Upstream trouble",
            "Lines about upstreams that failed in the time shown. Read them below, then look at the upstreams board.",
            "none", LogQuery(f"sum({_count('upstream_failed|upstream_down|upstream_retry')})"),
            w=6, marks=above(1, 20), decimals=0, trend=False,
        ),
        tile(
            "Faults of popproxy",
            "internal_error and plugin_error in the time shown. The line names the place; please report what is not "
            "yours.",
            "none", LogQuery(f"sum({_count('internal_error|plugin_error')})"),
            w=6, marks=above(1), decimals=0, trend=False,
        ),
        lines(
            "Lines by event",
            "What the log is full of. A new colour that grows is where to read on.",
            "none", LogQuery(f"sum by (event) (count_over_time({_EVENT} [$__auto]))", "{{event}}"),
            w=24, h=7, stacked=True,
        ),
    ),
    rows=(
        Row(
            "Who",
            (
                bars(
                    "Users with most failed logins",
                    "One user from many addresses is under attack, or has an old phone. Tell the user, or ban the "
                    "addresses: popproxy bans.",
                    "none", _top("user", "login_failed"),
                ),
                bars(
                    "Addresses with most failed logins",
                    "One address with many users is a robot: popproxy bans add, or fail2ban. An office behind one "
                    "address looks the same; see the users first.",
                    "none", _top("client", "login_failed"),
                ),
                bars(
                    "Addresses turned away most",
                    "Clients that got no greeting. Monitors and load balancers that do not speak PROXY show up here.",
                    "none", _top("client", "refused"),
                ),
                bars(
                    "Users with most octets",
                    "Who moves the mail. A client that fetches everything again and again does not keep messages or "
                    "their UIDLs: help its user.",
                    "bytes", _most("user", "octets_out"),
                ),
                bars(
                    "Users with most messages",
                    "Who fetches most messages. Compare it with octets: many small ones are mailing lists.",
                    "none", _most("user", "retrieved"),
                ),
                bars(
                    "Users with most sessions",
                    "Who comes most often. A client that asks every few seconds costs a login each time: have its "
                    "interval raised, or limit it.",
                    "none", _top("user", "session"),
                ),
            ),
        ),
        Row(
            "Lines",
            (
                text(
                    "Failed logins, the newest first",
                    "Why each was refused: reason is the private cause, code what the client was told.",
                    LogQuery(f'{_LINES} | event="login_failed"{_THIS}'), w=12, h=9,
                ),
                text(
                    "Trouble, the newest first",
                    "Warnings and errors of all kinds. Read from the bottom of a burst: the first line is the cause.",
                    LogQuery(f'{_LINES} | level=~"warning|error"'), w=12, h=9,
                ),
                text(
                    "Sessions of this user or client",
                    "Type a user or an address above. Each line is a whole session: commands, octets, how it ended.",
                    LogQuery(f'{_LINES} | event="session"{_THIS}'), w=12, h=9,
                ),
                text(
                    "One session from beginning to end",
                    "Type a session's id above. While it lives, popproxy tap --session ID shows what is said.",
                    LogQuery(f'{_LINES} | session=~"$session"'), w=12, h=9,
                ),
            ),
        ),
    ),
)  # fmt: skip
