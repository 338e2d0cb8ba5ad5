"""What all boards have in common: variables, links, annotations, and where panels stand."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard

from grafana.boards.panels import DATASOURCE
from grafana.boards.query import ours, scoped

TAG = "popproxy"
COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, placed from left to right. ``repeat``: once for each value of this variable."""

    title: str
    panels: Sequence[dashboard.Panel]
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """A board. ``first`` are panels without a heading; ``chosen`` are the variables beside job and instance."""

    uid: str
    title: str
    description: str
    first: Sequence[dashboard.Panel]
    rows: Sequence[Row] = ()
    chosen: Sequence[str] = ()

    def build(self) -> dashboard.Dashboard:
        """As the SDK has it."""
        panels = placed(self.first, self.rows)
        return finished(self.uid, self.title, self.description, panels, variables(self.chosen), notes())


def finished(
    uid: str,
    title: str,
    description: str,
    panels: list[dashboard.Panel | dashboard.RowPanel],
    variables: list[dashboard.VariableModel],
    notes: list[dashboard.AnnotationQuery],
) -> dashboard.Dashboard:
    """A dashboard with what none of ours does without."""
    return dashboard.Dashboard(
        uid=uid,
        title=title,
        description=description,
        tags=[TAG],
        editable=False,
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        refresh="30s",
        time=dashboard.DashboardDashboardTime(from_val="now-1h", to="now"),
        links=[
            dashboard.DashboardLink(
                title="popproxy",
                type_val=dashboard.DashboardLinkType.DASHBOARDS,
                icon="external link",
                tags=[TAG],
                include_vars=True,
                keep_time=True,
            )
        ],
        templating=dashboard.DashboardDashboardTemplating(list_val=variables),
        annotations=dashboard.AnnotationContainer(list_val=notes),
        panels=panels,
    )


def placed(first: Sequence[dashboard.Panel], rows: Sequence[Row]) -> list[dashboard.Panel | dashboard.RowPanel]:
    """All panels with their positions and ids; raises ValueError for a line of panels that leaves a gap."""
    found: list[dashboard.Panel | dashboard.RowPanel] = []
    y = _place(first, 0)
    found += first
    for row in rows:
        found.append(
            dashboard.RowPanel(
                title=row.title,
                collapsed=False,
                grid_pos=dashboard.GridPos(x=0, y=y, w=COLUMNS, h=1),
                repeat=row.repeat or None,
            )
        )
        y = _place(row.panels, y + 1)
        found += row.panels
    for number, panel in enumerate(found, 1):
        panel.id_val = number
    return found


def _place(panels: Sequence[dashboard.Panel], y: int) -> int:
    x = height = 0
    for panel in panels:
        at = panel.grid_pos
        assert at is not None
        if x == COLUMNS:
            x, y, height = 0, y + height, 0
        if x + at.w > COLUMNS or (x and at.h != height):
            raise ValueError(f"{panel.title}: does not fit into its line, at column {x} of {COLUMNS}")
        at.x, at.y, height = x, y, at.h
        x += at.w
    if x != COLUMNS:
        raise ValueError(f"the line that ends with {panels[-1].title} leaves {COLUMNS - x} columns")
    return y + height


def variables(chosen: Sequence[str]) -> list[dashboard.VariableModel]:
    """The variables of every board. Those that change nothing on this one are hidden: links still hand them on."""
    source = dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE,
        name="datasource",
        label="Data source",
        description="The Prometheus that scrapes popproxy.",
        query="prometheus",
    )
    scrape = [
        _query("job", "Job", "Job of the scrape config.", "label_values(popproxy_build_info, job)"),
        _query(
            "instance", "Instance", "Scraped address: one process group of popproxy.",
            'label_values(popproxy_build_info{job=~"$job"}, instance)',
        ),
    ]  # fmt: skip
    own = [
        _query(
            "listener", "Listener", "Name of a listener in the config.",
            f"label_values({scoped('popproxy_connections_limit', chosen=False)}, listener)",
        ),
        _query(
            "upstream", "Upstream", "Name of an upstream in the config.",
            f"label_values({scoped('popproxy_upstream_connections_active', chosen=False)}, upstream)",
        ),
    ]  # fmt: skip
    for variable in own:
        if variable.name not in chosen:
            variable.hide = dashboard.VariableHide.HIDE_VARIABLE
    return [source, *scrape, *own]


def _query(name: str, label: str, description: str, query: str) -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        description=description,
        query=query,
        definition=query,
        datasource=DATASOURCE,
        multi=True,
        include_all=True,
        all_value=".+",
        current=dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]),
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.ALPHABETICAL_ASC,
    )


def notes() -> list[dashboard.AnnotationQuery]:
    """What happened to the process: marks at the moment that a series' value names."""
    reloads = "popproxy_config_last_reload_success_timestamp_seconds * 1000"
    return [
        _at("Restarts", "red", ours("process_start_time_seconds * 1000"), "popproxy was started"),
        _at("Reloads", "blue", reloads, "A config was put in force"),
    ]


def _at(name: str, colour: str, expr: str, title: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery(
        name=name,
        datasource=DATASOURCE,
        enable=True,
        icon_color=colour,
        expr=scoped(expr),
        title_format=title,
        text_format="{{instance}}",
        use_value_for_time=True,
        step="60s",
    )
