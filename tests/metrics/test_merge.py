"""Several workers as one exposition: sums, gauges by their rule, deaths, mutes, and that no counter ever goes down."""

import json
import marshal
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from popproxy.metrics import Merger, Shown, WorkerMetrics, new_registry, render
from popproxy.metrics.cells import Block
from popproxy.metrics.words import Values

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
parse_open: Callable[[str], Iterable[Family]] = parse_openmetrics
Flat = dict[tuple[str, Values], float]
HIST = (1.0, 2.0)


def flat(blocks: Iterable[Block]) -> Flat:
    """Every number by name (a histogram's with their place) and label values."""
    found: Flat = {}
    for _, name, _, _, _, _, _, series in blocks:
        for values, number in series:
            for place, part in enumerate(number) if isinstance(number, list) else [(-1, number)]:
                key = (f"{name}[{place}]" if place >= 0 else name, tuple(values))
                assert key not in found, f"{key} twice"
                found[key] = part
    return found


def counted(blocks: Iterable[Block]) -> Flat:
    return flat(block for block in blocks if block[0] != "gauge")


def counter(name: str, series: dict[Values, float], labels: Values = ("l",)) -> Block:
    return ("counter", name, "C.", labels, "sum", (), [], list(series.items()))


def gauge(name: str, merge: str, value: float) -> Block:
    return ("gauge", name, "G.", (), merge, (), [], [((), value)])


def hist(name: str, *cell: float) -> Block:
    return ("histogram", name, "H.", (), "sum", HIST, [], [((), list(cell))])


def worker() -> WorkerMetrics:
    return WorkerMetrics(CollectorRegistry(), ["pop3"], ["main"], [("headers", ["open_body"])])


def test_counters_and_histograms_add_up_and_gauges_go_by_their_rule() -> None:
    merger = Merger()
    for slot, (n, low, high) in enumerate([(1.0, 1.0, 7.0), (10.0, 0.0, 9.0)]):
        merger.snapshot(
            slot,
            [
                counter("c", {("a",): n, (str(slot),): n}),
                hist("h", n, 0, 1, 2.5 * n),
                gauge("g_sum", "sum", n), gauge("g_min", "min", low), gauge("g_max", "max", high),
                gauge("g_mean", "mean", low),
            ],
        )  # fmt: skip
    assert flat(block for block in merger.blocks() if "worker" not in block[1]) == {
        ("c", ("a",)): 11, ("c", ("0",)): 1, ("c", ("1",)): 10,
        ("h[0]", ()): 11, ("h[1]", ()): 0, ("h[2]", ()): 2, ("h[3]", ()): 27.5,
        ("g_sum", ()): 11, ("g_min", ()): 0, ("g_max", ()): 9, ("g_mean", ()): 0.5,
    }  # fmt: skip


def test_a_dead_worker_leaves_its_counters_and_takes_its_gauges() -> None:
    merger = Merger()
    for slot in (0, 1):
        merger.snapshot(slot, [counter("c", {("a",): 5}), gauge("g", "sum", 3), hist("h", 1, 0, 0, 0.5)])
    merger.died(1)
    merger.died(1)
    found = flat(merger.blocks())
    assert (found["c", ("a",)], found["g", ()], found["h[0]", ()]) == (10, 3, 2)
    merger.died(0)
    found = flat(merger.blocks())
    assert (found["c", ("a",)], found["h[3]", ()]) == (10, 1.0)
    assert ("g", ()) not in found
    merger.restarted(1)
    merger.snapshot(1, [counter("c", {("a",): 1}), gauge("g", "sum", 4)])
    found = flat(merger.blocks())
    assert (found["c", ("a",)], found["g", ()]) == (11, 4)


def test_a_mean_is_of_those_who_say_something() -> None:
    """Of three workers one has died, and one does not know the server that the third has out of rotation."""
    merger = Merger()
    for slot, up in enumerate((1.0, 0.0)):
        merger.snapshot(slot, [gauge("up", "mean", up)])
    merger.snapshot(2, [])
    assert flat(merger.blocks())["up", ()] == 0.5
    merger.died(0)
    assert flat(merger.blocks())["up", ()] == 0
    merger.died(1)
    assert ("up", ()) not in flat(merger.blocks())


def test_what_the_supervisor_says_of_its_workers() -> None:
    merger = Merger()
    merger.started(0)
    merger.snapshot(1, [])

    def told() -> dict[str, list[float]]:
        found = flat(merger.blocks())
        names = ("worker_up", "worker_scrape_ok", "worker_restarts")
        return {slot: [found[f"popproxy_{name}", (slot,)] for name in names] for slot in ("0", "1")}

    assert told() == {"0": [1, 1, 0], "1": [1, 1, 0]}
    merger.mute(0)
    assert told()["0"] == [1, 0, 0]
    merger.snapshot(0, [])
    merger.died(1)
    assert told() == {"0": [1, 1, 0], "1": [0, 0, 0]}
    merger.mute(1)
    merger.restarted(1)
    merger.restarted(1)
    assert told()["1"] == [1, 1, 2]
    (up,) = [block for block in merger.blocks() if block[1] == "popproxy_worker_up"]
    assert up[3] == ("worker",)


def test_a_mute_worker_goes_on_to_count_with_what_it_said_last() -> None:
    merger = Merger()
    merger.snapshot(0, [counter("c", {("a",): 5}), gauge("g", "sum", 3)])
    merger.mute(0)
    assert flat(merger.blocks())["c", ("a",)] == 5
    assert flat(merger.blocks())["g", ()] == 3


def test_answers_out_of_order_lose_nothing() -> None:
    merger = Merger()
    merger.snapshot(0, [counter("c", {("a",): 5}), counter("new", {("a",): 1}), hist("h", 2, 1, 0, 3.0)])
    merger.snapshot(0, [counter("c", {("a",): 4}), hist("h", 2, 0, 0, 1.0)])
    found = flat(merger.blocks())
    assert (found["c", ("a",)], found["new", ("a",)], found["h[1]", ()], found["h[3]", ()]) == (5, 1, 1, 3.0)


def test_the_last_word_of_a_dead_worker_comes_too_late() -> None:
    merger = Merger()
    merger.snapshot(0, [counter("c", {("a",): 5})])
    merger.died(0)
    merger.snapshot(0, [counter("c", {("a",): 6})])
    assert flat(merger.blocks())["c", ("a",)] == 5


def born(when: float) -> Block:
    return gauge("process_start_time_seconds", "min", when)


def test_an_answer_of_the_dead_is_not_taken_for_its_successors() -> None:
    """It was given in time, and handed on when another worker had kept its supervisor waiting."""
    merger = Merger()
    merger.snapshot(0, [counter("c", {("a",): 5}), born(100.0)])
    merger.restarted(0)
    merger.snapshot(0, [counter("c", {("a",): 6}), born(100.0)])
    assert flat(merger.blocks())["c", ("a",)] == 5
    merger.snapshot(0, [counter("c", {("a",): 1}), born(200.0)])
    merger.snapshot(0, [counter("c", {("a",): 6}), born(100.0)])
    assert flat(merger.blocks())["c", ("a",)] == 6
    assert flat(merger.blocks())["process_start_time_seconds", ()] == 200.0


def test_a_worker_that_died_unheard_is_told_from_its_successor() -> None:
    merger = Merger()
    merger.started(0)
    merger.restarted(0)
    merger.snapshot(0, [counter("c", {("a",): 5}), born(100.0)])
    merger.snapshot(0, [counter("c", {("a",): 2}), born(200.0)])
    merger.snapshot(0, [counter("c", {("a",): 5}), born(100.0)])
    merger.snapshot(0, [counter("c", {("a",): 3}), born(200.0)])
    assert flat(merger.blocks())["c", ("a",)] == 8


def test_a_clock_that_was_set_back_hides_no_worker() -> None:
    merger = Merger()
    merger.snapshot(0, [counter("c", {("a",): 5}), born(200.0)])
    merger.restarted(0)
    merger.snapshot(0, [counter("c", {("a",): 2}), born(100.0)])
    assert flat(merger.blocks())["c", ("a",)] == 7


def test_a_removed_slot_is_seen_no_more_and_what_it_counted_stays() -> None:
    merger = Merger()
    for slot in (0, 1):
        merger.snapshot(slot, [counter("c", {("a",): 5})])
    merger.removed(1)
    merger.removed(1)
    found = flat(merger.blocks())
    assert found["c", ("a",)] == 10
    assert [key for key in found if key[1] == ("1",)] == []
    merger.started(1)
    assert flat(merger.blocks())["popproxy_worker_restarts", ("1",)] == 0


def test_another_shape_takes_the_place_of_the_one_before() -> None:
    merger = Merger()
    merger.snapshot(0, [counter("c", {("a",): 5}, ("rule",))])
    merger.died(0)
    merger.restarted(0)
    merger.snapshot(0, [counter("c", {("x",): 2}, ("limit",))])
    (found,) = [block for block in merger.blocks() if block[1] == "c"]
    assert (found[3], found[-1]) == (("limit",), [(("x",), 2)])


def test_blocks_share_nothing_with_the_merger() -> None:
    merger = Merger()
    merger.snapshot(0, [hist("h", 1, 0, 0, 0.5)])
    for _ in range(2):
        (found,) = [block for block in merger.blocks() if block[1] == "h"]
        (series,) = found[-1]
        assert series == ((), [1, 0, 0, 0.5])
        assert isinstance(series[1], list)
        series[1][0] += 100


def test_the_newest_exemplar_of_any_worker_is_shown() -> None:
    def failed(session: str, when: float) -> Block:
        return ("counter", "c", "C.", ("l",), "sum", (), [(("a",), 0, session, 1.0, when)], [(("a",), 1)])

    merger = Merger()
    merger.snapshot(0, [failed("one", 20.0)])
    merger.snapshot(1, [failed("two", 30.0)])
    merger.snapshot(2, [failed("three", 10.0)])

    def shown() -> object:
        return next(block[-2] for block in merger.blocks() if block[1] == "c")

    assert shown() == [(("a",), 0, "two", 1.0, 30.0)]
    merger.died(1)
    assert shown() == [(("a",), 0, "two", 1.0, 30.0)]


@pytest.mark.parametrize("carry", [marshal, json], ids=["marshal", "json"])
def test_a_snapshot_survives_the_channel(carry: object) -> None:
    metrics = worker()
    metrics.listener("pop3").session_end("update", "quit", 2.0)
    metrics.listener("pop3").connection()
    text = carry.dumps(metrics.snapshot())  # type: ignore[attr-defined]
    merger = Merger()
    merger.snapshot(0, carry.loads(text))  # type: ignore[attr-defined]
    found = flat(merger.blocks())
    assert found["popproxy_connections", ("pop3",)] == 1
    assert found["popproxy_session_duration_seconds[1]", ("pop3",)] == 1
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_processes_add_up_and_the_oldest_says_since_when() -> None:
    merger = Merger()
    snapshots = [worker().snapshot() for _ in range(2)]
    rules = {block[1]: block[4] for block in snapshots[0] if block[1].startswith(("process_", "python_"))}
    assert rules == {
        "process_virtual_memory_bytes": "sum", "process_resident_memory_bytes": "sum",
        "process_start_time_seconds": "min", "process_cpu_seconds": "sum", "process_open_fds": "max",
        "process_max_fds": "min", "python_info": "max", "python_gc_objects_collected": "sum",
        "python_gc_objects_uncollectable": "sum", "python_gc_collections": "sum",
    }  # fmt: skip
    for slot, snapshot in enumerate(snapshots):
        merger.snapshot(slot, [*snapshot, gauge("process_open_fds", rules["process_open_fds"], [700, 600][slot])])
    one, two = map(flat, snapshots)
    found = flat(merger.blocks(own=worker().snapshot()))
    for key in one:
        if key[0] == "process_cpu_seconds":
            assert found[key] >= one[key] + two[key]
    assert found["process_start_time_seconds", ()] == one["process_start_time_seconds", ()]
    assert found["process_open_fds", ()] == 700, "each has a limit of its own: the fullest counts"
    before = found["python_gc_collections", ("0",)]
    merger.died(0)
    assert flat(merger.blocks(own=worker().snapshot()))["python_gc_collections", ("0",)] >= before


def test_the_supervisor_counts_like_one_more_and_says_what_config_is_in_force() -> None:
    merger = Merger()
    busy = worker()
    busy.listener("pop3").connection()
    merger.snapshot(0, busy.snapshot())
    own = WorkerMetrics(CollectorRegistry())
    own.reloaded(True, 1000.0)
    own.reloaded(False, 2000.0)
    for _ in range(2):
        found = flat(merger.blocks(own=own.snapshot()))
        assert found["popproxy_connections", ("pop3",)] == 1
        assert found["popproxy_config_last_reload_successful", ()] == 0
        assert found["popproxy_config_last_reload_success_timestamp_seconds", ()] == 1000


def test_merged_blocks_render_in_both_formats() -> None:
    merger = Merger()
    for slot in range(2):
        metrics = worker()
        metrics.listener("pop3").session_end("update", "quit", 2.0)
        merger.snapshot(slot, metrics.snapshot())
    for text, parse in (
        (render(Shown(merger.blocks()))[0], parse_text),
        (render(Shown(merger.blocks()), OPENMETRICS)[0], parse_open),
    ):
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in parse(text.decode())  # type: ignore[no-untyped-call]
            for sample in family.samples
        }
        assert samples["popproxy_session_duration_seconds_count", "pop3"] == 2
        assert samples["popproxy_session_duration_seconds_bucket", "5.0", "pop3"] == 2
        assert samples["popproxy_session_duration_seconds_sum", "pop3"] == 4
        assert samples["popproxy_worker_up", "1"] == 1
        assert ("process_cpu_seconds_total",) in samples


def test_one_worker_is_what_it_shows_itself() -> None:
    registry = new_registry()
    metrics = WorkerMetrics(registry, ["pop3"], ["main"])
    metrics.listener("pop3").auth("PLAIN", "ok", 0.3)
    merger = Merger()
    merger.snapshot(0, metrics.snapshot())
    shown = [block for block in merger.blocks() if not block[1].startswith("popproxy_worker_")]
    own, merged = render(registry)[0].decode(), render(Shown(shown))[0].decode()
    assert [line for line in own.splitlines() if "popproxy" in line] == [
        line for line in merged.splitlines() if "popproxy" in line
    ]


SLOTS = st.integers(0, 3)


class Fleet(RuleBasedStateMachine):
    """Workers that count, answer, keep mute, and die in any order. The model knows what each answer has said."""

    def __init__(self) -> None:
        super().__init__()
        self.merger = Merger()
        self.alive: dict[int, WorkerMetrics] = {}
        self.said: dict[int, Flat] = {}
        self.carried: Flat = {}
        self.shown: Flat = {}
        self.open: dict[int, float] = {}

    def add(self, into: Flat, found: Flat) -> None:
        for key, number in found.items():
            into[key] = into.get(key, 0) + number

    @rule(slot=SLOTS)
    def begins(self, slot: int) -> None:
        if slot in self.alive:
            return
        fresh = slot not in self.open
        self.alive[slot] = worker()
        self.open[slot] = 0
        (self.merger.started if fresh else self.merger.restarted)(slot)

    @rule(slot=SLOTS, times=st.integers(1, 3), seconds=st.sampled_from([0.0, 0.5, 3.0, 1e9]))
    def counts(self, slot: int, times: int, seconds: float) -> None:
        if slot in self.alive:
            meter = self.alive[slot].listener("pop3")
            for _ in range(times):
                meter.auth("PLAIN", "ok", seconds)
                meter.connection()
                meter.active(1)
            self.alive[slot].plugin("headers").counter("found", "Found.")[""].inc(0.5)

    @rule(slot=SLOTS)
    def answers(self, slot: int) -> None:
        if slot in self.alive:
            blocks = [block for block in self.alive[slot].snapshot() if block[1].startswith("popproxy")]
            self.merger.snapshot(slot, marshal.loads(marshal.dumps(blocks)))
            self.said[slot] = counted(blocks)
            self.open[slot] = flat(blocks)["popproxy_connections_active", ("pop3",)]

    @rule(slot=SLOTS)
    def keeps_mute(self, slot: int) -> None:
        self.merger.mute(slot)

    @rule(slot=SLOTS)
    def dies(self, slot: int) -> None:
        if self.alive.pop(slot, None) is not None:
            self.add(self.carried, self.said.pop(slot, {}))
            self.open[slot] = 0
            self.merger.died(slot)

    @invariant()
    def what_is_exported_is_the_sum_and_goes_never_down(self) -> None:
        wanted = dict(self.carried)
        for said in self.said.values():
            self.add(wanted, said)
        blocks = self.merger.blocks()
        found = {key: number for key, number in counted(blocks).items() if "_worker_" not in key[0]}
        assert found == wanted
        for key, number in self.shown.items():
            assert found[key] >= number
        self.shown = found
        active = flat(blocks).get(("popproxy_connections_active", ("pop3",)), 0)
        assert active == sum(self.open.values())


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)

NUMBERS = st.integers(0, 1000)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SLOTS, st.dictionaries(st.tuples(st.sampled_from("abc")), NUMBERS)), max_size=12))
def test_counters_never_go_down_whatever_order_answers_come_in(answers: list[tuple[int, dict[Values, float]]]) -> None:
    """Also those that say less than an earlier one did."""
    merger = Merger()
    before: Flat = {}
    for slot, series in answers:
        merger.snapshot(slot, [counter("c", series)])
        now = {key: number for key, number in flat(merger.blocks()).items() if key[0] == "c"}
        assert all(now[key] >= number for key, number in before.items())
        before = now
