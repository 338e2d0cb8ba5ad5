"""The kinds of panels. Every panel gets the board's data source and selectors, a unit, thresholds and a description.

Sizes are in Grafana's grid: 24 columns, rows of about 38 pixels. Where a panel stands is the board's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.cog.variants import Dataquery as Target
from grafana_foundation_sdk.models import (
    bargauge,
    common,
    dashboard,
    heatmap,
    logs,
    loki,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)

from grafana.boards.query import quantile, scoped, series

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="$datasource")
LOKI = common.DataSourceRef(type_val="loki", uid="$datasource")

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = (
    "green", "yellow", "orange", "red", "blue", "purple", "#8e8e8e",
)  # fmt: skip

COLOURS: dict[str, str] = {
    "ok": GREEN, "allow": GREEN, "allowed": GREEN, "pass": GREEN, "quit": GREEN, "up": GREEN, "hit": GREEN,
    "ham": GREEN, "rewrite": ORANGE,
    "bad_credentials": YELLOW, "err": YELLOW, "negative": YELLOW, "modify": BLUE, "audit": BLUE, "audited": BLUE,
    "rate_limited": "dark-purple", "policy": PURPLE, "deny": PURPLE, "denied": PURPLE, "spam": PURPLE, "in_use": BLUE,
    "malformed": ORANGE, "tls_required": ORANGE, "aborted": GREY, "skipped": GREY, "client_eof": BLUE,
    "fail_closed": ORANGE,
    "tempfail": RED, "timeout": RED, "upstream_lost": RED, "error": RED, "fail": RED, "down": RED, "fail_open": RED,
}  # fmt: skip
"""Words of the enums that have the same colour on every board: what went well, was refused, was our trouble."""


Words = dict[str, tuple[str, str]]
"""By value, the least first: the text and the colour that stand for it."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Thresholds: the colour to begin with, and from which value on there is another. ``line``: drawn in graphs."""

    base: str
    steps: tuple[tuple[float, str], ...] = ()

    def config(self) -> dashboard.ThresholdsConfig:
        """As the SDK has it."""
        steps = [dashboard.Threshold(value=None, color=self.base)]
        steps += [dashboard.Threshold(value=value, color=color) for value, color in self.steps]
        return dashboard.ThresholdsConfig(mode=dashboard.ThresholdsMode.ABSOLUTE, steps=steps)


CALM = Marks("blue")
"""Nothing here is good or bad by its size."""


def above(warn: float, bad: float | None = None) -> Marks:
    """Worse from ``warn`` on, bad from ``bad`` on."""
    return Marks(GREEN, ((warn, ORANGE if bad is not None else RED), *(((bad, RED),) if bad is not None else ())))


def below(bad: float, warn: float) -> Marks:
    """Bad below ``bad``, worse below ``warn``."""
    return Marks(RED, ((bad, ORANGE), (warn, GREEN)))


def at_least(good: float) -> Marks:
    """Bad below ``good``."""
    return Marks(RED, ((good, GREEN),))


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, without selectors, and what its series are called: text with ``{{label}}``."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class LogQuery(Query):
    """One in LogQL, which is taken as it is."""


Queries = Sequence[Query] | Query | str


def spread(name: str, shares: Sequence[float] = (0.5, 0.95, 0.99), by: str = "", legend: str = "") -> list[Query]:
    """Some quantiles of a histogram, the middle first."""
    return [Query(quantile(part, name, by), f"{legend} p{part * 100:.0f}".strip()) for part in shares]


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Queries,
    *,
    w: int = 8,
    h: int = 8,
    marks: Marks = CALM,
    stacked: bool = False,
    steps: bool = False,
    none: str = "",
    low: float | None = 0,
    high: float | None = None,
    log: float = 0,
) -> dashboard.Panel:
    """Values over time. ``none`` is what stands there when there is nothing, ``steps`` keeps values until the next,
    ``log`` is the base of a logarithmic axis."""
    custom = timeseries.FieldConfig(
        draw_style=common.GraphDrawStyle.LINE,
        # The line of a series that is 0 would lie on top of the stack.
        line_width=0 if stacked else 1,
        fill_opacity=0 if log else 60 if stacked else 8,
        line_interpolation=common.LineInterpolation.STEP_AFTER if steps else common.LineInterpolation.LINEAR,
        show_points=common.VisibilityMode.AUTO,
        # Milliseconds: quantiles have no value where nothing happened for a moment.
        span_nulls=False if stacked else 120_000,
        stacking=common.StackingConfig(
            mode=common.StackingMode.NORMAL if stacked else common.StackingMode.NONE, group="A"
        ),
        thresholds_style=common.GraphThresholdsStyleConfig(
            mode=common.GraphThresholdsStyleMode.DASHED if marks.steps else common.GraphThresholdsStyleMode.OFF
        ),
        scale_distribution=common.ScaleDistributionConfig(type_val=common.ScaleDistribution.LOG, log=log)
        if log
        else None,
    )
    wide = w >= 12
    options = timeseries.Options(
        legend=common.VizLegendOptions(
            show_legend=True,
            display_mode=common.LegendDisplayMode.TABLE if wide else common.LegendDisplayMode.LIST,
            placement=common.LegendPlacement.RIGHT if wide else common.LegendPlacement.BOTTOM,
            calcs=["mean", "max"] if wide else [],
            sort_by="Mean" if wide else None,
            sort_desc=True if wide else None,
        ),
        tooltip=common.VizTooltipOptions(
            mode=common.TooltipDisplayMode.MULTI, sort=common.SortOrder.DESCENDING, hide_zeros=True
        ),
    )
    found = _panel("timeseries", title, description, unit, queries, w, h, marks, custom, options, none)
    config = _defaults(found)
    config.color = dashboard.FieldColor(mode=dashboard.FieldColorModeId.PALETTE_CLASSIC)
    config.min_val, config.max_val = (None if log else low), high
    asked = [queries] if isinstance(queries, Query) else [] if isinstance(queries, str) else queries
    names = {name for query in asked for name in series(query.expr, query.legend)}
    _field_config(found).overrides = [_painted(name, COLOURS[name]) for name in sorted(names & COLOURS.keys())]
    return found


def tile(
    title: str,
    description: str,
    unit: str,
    query: Query | str,
    *,
    w: int = 4,
    h: int = 4,
    marks: Marks = CALM,
    none: str = "none",
    decimals: float | None = None,
    trend: bool = True,
    board: str = "",
    words: Words | None = None,
) -> dashboard.Panel:
    """One number, coloured by ``marks``. ``board`` is the one to look at next (its uid), ``words`` stand for values."""
    marks = _worded(words) if words else marks
    options = stat.Options(
        graph_mode=common.BigValueGraphMode.AREA if trend else common.BigValueGraphMode.NONE,
        color_mode=common.BigValueColorMode.BACKGROUND if marks.steps else common.BigValueColorMode.VALUE,
        justify_mode=common.BigValueJustifyMode.AUTO,
        text_mode=common.BigValueTextMode.VALUE,
        reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields=""),
        orientation=common.VizOrientation.AUTO,
    )
    found = _panel(
        "stat", title, description, unit, query, w, h, marks, None, options, none, isinstance(query, LogQuery)
    )
    config = _defaults(found)
    config.decimals = decimals
    config.color = dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS)
    config.mappings = _mapped(words) if words else []
    if board:
        found.links = [to_board(board)]
    return found


def bars(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    w: int = 8,
    h: int = 8,
    marks: Marks = CALM,
    none: str = "none",
) -> dashboard.Panel:
    """A bar for each series that is not 0, the longest first, of the whole time that the board shows."""
    options = bargauge.Options(
        display_mode=common.BarGaugeDisplayMode.BASIC,
        value_mode=common.BarGaugeValueMode.TEXT,
        name_placement=common.BarGaugeNamePlacement.TOP,
        show_unfilled=False,
        sizing=common.BarGaugeSizing.MANUAL,
        min_viz_height=24,
        max_viz_height=40,
        text=common.VizTextDisplayOptions(title_size=12, value_size=14),
        orientation=common.VizOrientation.HORIZONTAL,
        reduce_options=common.ReduceDataOptions(values=False, calcs=["lastNotNull"], fields=""),
        legend=common.VizLegendOptions(show_legend=False),
    )
    if not isinstance(query, LogQuery):
        query = Query(f"sort_desc({query.expr}) > 0", query.legend)
    found = _panel("bargauge", title, description, unit, query, w, h, marks, None, options, none, instant=True)
    _defaults(found).color = dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS)
    _defaults(found).min_val = _defaults(found).decimals = 0
    return found


def heat(title: str, description: str, unit: str, expr: str, *, w: int = 12, h: int = 8) -> dashboard.Panel:
    """How a histogram's observations spread over time; ``expr`` is a sum by ``le``."""
    options = heatmap.Options(
        calculate=False,
        color=heatmap.HeatmapColorOptions(
            mode=heatmap.HeatmapColorMode.SCHEME,
            scheme="Oranges",
            fill="dark-orange",
            scale=heatmap.HeatmapColorScale.EXPONENTIAL,
            exponent=0.5,
            steps=64,
        ),
        filter_values=heatmap.FilterValueRange(le=1e-9),
        rows_frame=heatmap.RowsHeatmapOptions(layout=common.HeatmapCellLayout.AUTO),
        cell_gap=1,
        y_axis=heatmap.YAxisConfig(unit=unit, axis_placement=common.AxisPlacement.LEFT),
        legend=heatmap.HeatmapLegend(show=True),
        tooltip=heatmap.HeatmapTooltip(mode=common.TooltipDisplayMode.SINGLE, y_histogram=True),
    )
    found = _panel(
        "heatmap", title, description, unit, Query(expr, "{{le}}"), w, h, CALM, heatmap.FieldConfig(), options, ""
    )
    for target in found.targets or []:
        assert isinstance(target, prometheus.Dataquery)
        target.format_val = prometheus.PromQueryFormat.HEATMAP
    return found


def timeline(
    title: str,
    description: str,
    query: Query,
    words: Words,
    *,
    w: int = 24,
    h: int = 8,
    none: str = "none",
) -> dashboard.Panel:
    """A band for each series that changes its colour with its value: ``words`` are text and colour by value."""
    options = statetimeline.Options(
        show_value=common.VisibilityMode.NEVER,
        row_height=0.8,
        merge_values=True,
        legend=common.VizLegendOptions(
            show_legend=True,
            display_mode=common.LegendDisplayMode.LIST,
            placement=common.LegendPlacement.BOTTOM,
        ),
        tooltip=common.VizTooltipOptions(mode=common.TooltipDisplayMode.SINGLE, sort=common.SortOrder.NONE),
    )
    marks = _worded(words)
    custom = statetimeline.FieldConfig(line_width=0, fill_opacity=80)
    found = _panel("state-timeline", title, description, "none", query, w, h, marks, custom, options, none)
    config = _defaults(found)
    config.color = dashboard.FieldColor(mode=dashboard.FieldColorModeId.THRESHOLDS)
    config.mappings = _mapped(words)
    return found


def text(title: str, description: str, query: LogQuery, *, w: int = 24, h: int = 8) -> dashboard.Panel:
    """Lines of the log, the newest first."""
    options = logs.Options(
        show_time=True,
        wrap_log_message=True,
        enable_log_details=True,
        sort_order=common.LogsSortOrder.DESCENDING,
        dedup_strategy=common.LogsDedupStrategy.NONE,
    )
    return _panel("logs", title, description, "none", query, w, h, CALM, None, options, "none")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: title, expression, unit and marks. Without a title only the expression's labels show."""

    title: str
    expr: str
    unit: str = "none"
    marks: Marks | None = None
    words: Words | None = None


def rows(
    title: str,
    description: str,
    labels: dict[str, str],
    columns: Sequence[Column],
    *,
    w: int = 24,
    h: int = 8,
    sort: str = "",
) -> dashboard.Panel:
    """A table, a row for each combination of ``labels`` (label: title); each column is an expression of its own."""
    queries = [Query(column.expr) for column in columns]
    custom = common.TableFieldOptions(
        align=common.FieldTextAlignment.AUTO, cell_options=common.TableAutoCellOptions(), inspect=False, min_width=80
    )
    options = table.Options(
        show_header=True,
        cell_height=common.TableCellHeight.SM,
        sort_by=[common.TableSortByFieldState(display_name=sort, desc=True)] if sort else None,
    )
    found = _panel("table", title, description, "none", queries, w, h, CALM, custom, options, "", instant=True)
    for target in found.targets or []:
        assert isinstance(target, prometheus.Dataquery)
        target.format_val = prometheus.PromQueryFormat.TABLE
    values = ["Value"] if len(columns) == 1 else [f"Value #{ref(index)}" for index in range(len(columns))]
    titles = {value: column.title for value, column in zip(values, columns, strict=True) if column.title}
    shown = [*labels, *titles]
    found.transformations = [
        dashboard.DataTransformerConfig(id_val="merge", options={}),
        dashboard.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": shown}}),
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {},
                "indexByName": {name: index for index, name in enumerate(shown)},
                "renameByName": labels | titles,
            },
        ),
    ]
    _field_config(found).overrides = [
        *(_named(title) for title in labels.values()),
        *(_column(column) for column in columns if column.title),
    ]
    return found


def ref(index: int) -> str:
    """refId of a panel's query: A, B, C ..."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]


def to_board(uid: str) -> dashboard.DashboardLink:
    """A panel's link to another board that keeps time and variables."""
    return dashboard.DashboardLink(
        title="Look closer",
        type_val=dashboard.DashboardLinkType.LINK,
        url=f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}",
    )


def _named(title: str) -> dashboard.DashboardFieldConfigSourceOverrides:
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=title),
        properties=[dashboard.DynamicConfigValue(id_val="custom.minWidth", value=130)],
    )


def _column(column: Column) -> dashboard.DashboardFieldConfigSourceOverrides:
    properties = [dashboard.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.unit == "none":
        properties.append(dashboard.DynamicConfigValue(id_val="decimals", value=0))
    if column.marks is not None:
        properties += [
            dashboard.DynamicConfigValue(id_val="thresholds", value=column.marks.config().to_json()),
            dashboard.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
        ]
    if column.words is not None:
        options = {key: {"text": text, "color": color} for key, (text, color) in column.words.items()}
        properties += [
            dashboard.DynamicConfigValue(id_val="mappings", value=[{"type": "value", "options": options}]),
            dashboard.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
        ]
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=column.title), properties=properties
    )


def _worded(words: Words) -> Marks:
    """The marks of values that stand for words; Grafana takes the words' own colours first."""
    (_, (_, base)), *more = words.items()
    return Marks(base, tuple((float(value), colour) for value, (_, colour) in more))


def _mapped(words: Words) -> list[dashboard.ValueMapping]:
    results = {key: dashboard.ValueMappingResult(text=text, color=color) for key, (text, color) in words.items()}
    return [dashboard.ValueMap(options=results)]


def _painted(word: str, colour: str) -> dashboard.DashboardFieldConfigSourceOverrides:
    return dashboard.DashboardFieldConfigSourceOverrides(
        matcher=dashboard.MatcherConfig(id_val="byName", options=word),
        properties=[
            dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour}),
        ],
    )


def _panel(
    kind: str,
    title: str,
    description: str,
    unit: str,
    queries: Queries,
    w: int,
    h: int,
    marks: Marks,
    custom: object,
    options: object,
    none: str,
    instant: bool = False,
) -> dashboard.Panel:
    if isinstance(queries, str):
        queries = Query(queries)
    asked = [queries] if isinstance(queries, Query) else list(queries)
    targets = [_target(query, ref(index), instant) for index, query in enumerate(asked)]
    return dashboard.Panel(
        type_val=kind,
        title=title,
        description=description,
        datasource=LOKI if isinstance(asked[0], LogQuery) else DATASOURCE,
        grid_pos=dashboard.GridPos(w=w, h=h),
        targets=targets,
        options=options,
        field_config=dashboard.FieldConfigSource(
            defaults=dashboard.FieldConfig(
                unit=unit, thresholds=marks.config(), mappings=[], custom=custom, no_value=none or None
            ),
            overrides=[],
        ),
    )


def _target(query: Query, ref_id: str, instant: bool) -> Target:
    if isinstance(query, LogQuery):
        return loki.Dataquery(
            ref_id=ref_id,
            expr=query.expr,
            legend_format=query.legend or None,
            query_type="instant" if instant else "range",
            editor_mode=loki.QueryEditorMode.CODE,
            datasource=LOKI,
        )
    return prometheus.Dataquery(
        ref_id=ref_id,
        expr=scoped(query.expr),
        legend_format=query.legend or "__auto",
        editor_mode=prometheus.QueryEditorMode.CODE,
        range_val=not instant,
        instant=instant,
        datasource=DATASOURCE,
    )


def _field_config(panel: dashboard.Panel) -> dashboard.FieldConfigSource:
    assert panel.field_config is not None
    return panel.field_config


def _defaults(panel: dashboard.Panel) -> dashboard.FieldConfig:
    defaults = _field_config(panel).defaults
    assert defaults is not None
    return defaults
