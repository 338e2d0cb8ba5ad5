"""What plugins decide, what they cost, and where they fail; and the store they count in."""

from grafana.boards.board import Board, Row
from grafana.boards.panels import GREEN, RED, Column, Query, above, bars, lines, rows, spread, tile
from grafana.boards.query import each, increase, quantile, quantile_shown, rate, share

_CALLS = f"({rate('plugin_calls')} + {rate('plugin_errors')})"

BOARD = Board(
    uid="popproxy-plugins",
    title="popproxy / Plugins and policies",
    description="What plugins decide, what they cost and where they fail; rules, limits, scanners and the store.",
    first=(
        tile(
            "Hooks called",
            "Calls of plugins' hooks per second. It follows logins and commands; if it falls while they do not, a "
            "reload has dropped a plugin.",
            "ops", rate("plugin_calls"), none="no plugins",
        ),
        tile(
            "Hooks that failed",
            "Share of calls that raised, hung or lied. Above 1 % look at 'Failures', and for plugin_error in the log: "
            "it names the exception.",
            "percentunit", share(rate("plugin_errors"), _CALLS),
            marks=above(0.001, 0.01), none="no plugins", decimals=2,
        ),
        tile(
            "Failing open",
            "Failures per second after which the session went on as if the plugin were not there: a filter that does "
            "not filter. Decide: fix it, or set its fail mode to close.",
            "ops", rate("plugin_errors", 'action="fail_open"') + " or vector(0)", marks=above(0.001), none="none",
        ),
        tile(
            "Denials",
            "What plugins refused, per second: connections, logins, commands, messages. A step after a reload is a "
            "rule that hits more than it should; audit mode shows that beforehand.",
            "ops", rate("plugin_calls", 'verdict="deny"') + " or vector(0)", none="none",
        ),
        tile(
            "Hook p99",
            "99 of 100 hooks return within this time, which users wait for. Find the plugin below.",
            "s", quantile(0.99, "plugin_duration_seconds"), marks=above(0.5, 2), none="no plugins",
        ),
        tile(
            "Store",
            "Whether the store of counters answers. While it does not, plugins go by their fail modes: limits may not "
            "hold. See docs/store.md.",
            "none", "min(popproxy_store_up)", trend=False, none="not used",
            words={"0": ("down", RED), "1": ("up", GREEN)},
        ),
        lines(
            "Calls by plugin and verdict",
            "What plugins say. Compare 'deny' with what you expect of your rules; 'modify' is edited mail or "
            "rewritten names.",
            "ops", Query(each("plugin_calls", "plugin, verdict"), "{{plugin}} {{verdict}}"), w=12,
            none="no plugins",
        ),
        lines(
            "Failures by plugin",
            "Hooks that raised, hung or lied, and what became of it: fail_open let it through, fail_closed refused. "
            "The log's plugin_error says why.",
            "ops", Query(each("plugin_errors", "plugin, hook, action"), "{{plugin}} {{hook}} {{action}}"), w=12,
            marks=above(0.01), none="no failures",
        ),
    ),
    rows=(
        Row(
            "What plugins cost",
            (
                lines(
                    "Time of hooks by plugin (p95)",
                    "The plugin whose line rises makes users wait. Hooks on whole messages (on_message) may take "
                    "long; those of logins may not.",
                    "s", Query(quantile(0.95, "plugin_duration_seconds", "plugin"), "{{plugin}}"),
                    marks=above(0.5), none="no plugins", log=10,
                ),
                rows(
                    "By plugin and hook, over the time shown",
                    "One line for each hook that is used. Sort by time to find what slows sessions down, by failures "
                    "to find what is broken.",
                    {"plugin": "Plugin", "hook": "Hook"},
                    (
                        Column("Calls", increase("plugin_calls", by="plugin, hook"), "none"),
                        Column("p50", quantile_shown(0.5, "plugin_duration_seconds", "plugin, hook"), "s"),
                        Column("p99", quantile_shown(0.99, "plugin_duration_seconds", "plugin, hook"), "s",
                               above(0.5, 2)),
                        Column("Failures", increase("plugin_errors", by="plugin, hook"), "none", above(1, 10)),
                    ),
                    w=16, sort="Calls",
                ),
            ),
        ),
        Row(
            "Rules and limits",
            (
                bars(
                    "Rules of policies",
                    "How often each rule decided, and what, in the time shown. A rule in audit mode shows what it "
                    "would do; one that never hits may be a mistake.",
                    "none", Query(increase("policy_decisions", by="rule, action"), "{{rule}} {{action}}"),
                    none="no rule has decided anything",
                ),
                lines(
                    "Decisions of policies",
                    "By what was decided. If 'deny' jumps after a reload, explain a denied login: popproxy explain "
                    "--user U --ip A.",
                    "ops", Query(each("policy_decisions", "action"), "{{action}}"), none="no policies",
                ),
                lines(
                    "Limits that denied",
                    "Denials by limit. Many on one limit: it is too tight, or somebody is at work; popproxy top tells "
                    "who. error: the store did not answer.",
                    "ops",
                    Query(each("rate_limit_decisions", "limit, result", 'result!="allowed"'), "{{limit}} {{result}}"),
                    none="nothing denied",
                ),
            ),
        ),
        Row(
            "Scanners",
            (
                lines(
                    "Scans by result",
                    "What scanners found. error: the scanner does not answer, and mail goes on by the plugin's fail "
                    "mode: look at rspamd or spamd. too_big and skipped were not scanned.",
                    "ops", Query(each("scanner_results", "result"), "{{result}}"),
                    w=12, stacked=True, none="no scanners",
                ),
                lines(
                    "Scans that failed",
                    "Share of scans without a verdict. Above 20 % the scanner is as good as off: restart it, or raise "
                    "its timeout.",
                    "percentunit",
                    Query(
                        rate("scanner_results", 'result="error"', "scanner")
                        + f" / ({rate('scanner_results', by='scanner')} > 0)",
                        "{{scanner}}",
                    ),
                    w=12, marks=above(0.2), high=1, none="no scans",
                ),
            ),
        ),
        Row(
            "Store",
            (
                lines(
                    "Time of a round trip",
                    "One run of steps in the store. memory takes microseconds, sqlite and redis milliseconds; logins "
                    "wait for it.",
                    "s",
                    spread("rate_limit_store_duration_seconds", by="store", legend="{{store}}"),
                    marks=above(0.1), none="not used", log=10,
                ),
                lines(
                    "Round trips that failed",
                    "By what was wrong. resting: it failed twice and nobody waits for it. full, read_only: disk or "
                    "maxmemory. auth, refused, unreachable: its address, password or firewall.",
                    "ops", Query(each("store_errors", "store, reason"), "{{store}} {{reason}}"), none="no failures",
                ),
                lines(
                    "Writes that were lost",
                    "Counts that found no room while the store was down: limits over long windows let through a "
                    "little more than they should. Bring the store back.",
                    "ops", Query(each("store_posts_lost", "store"), "{{store}}"),
                    marks=above(0.001), none="none lost",
                ),
            ),
        ),
    ),
)  # fmt: skip
