"""What the broker tells Prometheus: names and meanings of its metrics. The docs' tables are made from here."""

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["COUNTERS", "FAMILIES", "GAUGES", "HISTOGRAMS", "PREFIX", "Counted", "counters_table", "gauges_table"]

PREFIX: Final = "pystrands_"


class Counted(NamedTuple):
    """How a counter is shown: as ``pystrands_{metric}_total``, with its ``reason`` as label if it has one.

    ``text`` is Markdown; counters that share a metric have what that one means in :data:`FAMILIES`.
    """

    metric: str
    reason: str
    text: str

    @property
    def sample(self) -> str:
        """The sample's name as Prometheus writes it."""
        return f"{PREFIX}{self.metric}_total" + (f'{{reason="{self.reason}"}}' if self.reason else "")


FAMILIES: Final[Mapping[str, str]] = {
    "clients_closed": "clients that the broker closed",
    "events_dropped": "events that no backend has handled, and none will",
    "handshakes_failed": "requests that did not become a WebSocket",
    "lines_refused": "lines of backends that were skipped",
    "links_refused": "connections to the backends' port that were not let in",
}

COUNTERS: Final[Mapping[str, Counted]] = {
    "clients_admitted": Counted("clients_admitted", "", "clients that were let in"),
    "clients_gone": Counted("clients_gone", "", "clients whose WebSocket has ended"),
    "clients_suspended": Counted(
        "clients_suspended", "", "clients of `pystrands.v1` that lost their connection, and could come back"
    ),
    "clients_resumed": Counted("clients_resumed", "", "clients of `pystrands.v1` that came back"),
    "messages_received": Counted("messages_received", "", "messages from clients"),
    "messages_delivered": Counted("messages_delivered", "", "messages to clients: one for each recipient"),
    "messages_compressed": Counted(
        "messages_compressed", "", "messages to clients that were compressed: one for all its recipients"
    ),
    "events_redelivered": Counted(
        "events_redelivered", "", "events that were sent again, marked, since a backend died with them"
    ),
    "events_too_long": Counted(
        "events_dropped",
        "too_long",
        "messages that were dropped, and other events that went without metadata: with it their line was longer than "
        "the backend takes",
    ),
    "events_given_up": Counted(
        "events_dropped", "given_up", "messages that were dropped: three backends died while they were handling them"
    ),
    "expired_dropped": Counted(
        "events_dropped", "expired", "messages that were dropped: the time that a backend gave their client was over"
    ),
    "queue_dropped": Counted(
        "events_dropped", "queue_full", "messages that were dropped, or refused, because no backend was there"
    ),
    "results_too_long": Counted(
        "results_too_long", "", "answers that had more bytes than the backend takes; it got an error instead"
    ),
    "sessions_resumed": Counted(
        "sessions_resumed", "", "times a backend came back to its session after its link was lost"
    ),
    "budget_closed": Counted(
        "budget_closed",
        "",
        "clients and backends that were closed: they had caused most of what was more than `--memory-budget`",
    ),
    "budget_dropped": Counted(
        "events_dropped", "memory", "messages that were dropped with a client that was closed for the memory it took"
    ),
    "slow_consumer_closed": Counted(
        "clients_closed", "slow", "clients that were closed with 1013: they did not read, or lagged behind their room"
    ),
    "slow_consumer_dropped": Counted(
        "messages_missed",
        "",
        "messages that clients missed since they were too slow (`--slow-client-policy drop`)",
    ),
    "volatile_dropped": Counted(
        "volatile_dropped", "", "volatile messages that clients missed since they were not up to date"
    ),
    "keyed_replaced": Counted("keyed_replaced", "", "messages that waited and gave way to a newer one of their key"),
    "expired_closed": Counted(
        "clients_closed",
        "expired",
        "clients that were closed with 4401: the time that their backend gave them was over",
    ),
    "keepalive_timeout": Counted("clients_closed", "silent", "clients that left `--ping-missed` pings unanswered"),
    "message_timeout": Counted(
        "clients_closed", "slow_message", "clients whose message was not whole within `--message-timeout` (1008)"
    ),
    "too_many_fragments": Counted(
        "clients_closed", "too_many_fragments", "clients that sent more than 100,000 fragments of one message (1008)"
    ),
    "control_flood": Counted(
        "clients_closed",
        "control_flood",
        "clients that sent more than 1,000 pings and pongs within about five seconds (1008)",
    ),
    "rate_closed": Counted(
        "clients_closed", "too_fast", "clients past their rate (1008, `--client-rate-policy close`)"
    ),
    "idle_closed": Counted("clients_closed", "idle", "clients that sent no message within `--idle-timeout` (1001)"),
    "rate_delayed": Counted(
        "clients_delayed",
        "",
        "times that a client past its rate was read no further for a while (`--client-rate-policy delay`)",
    ),
    "protocol_error": Counted("clients_closed", "protocol_error", "clients that broke the WebSocket protocol (1002)"),
    "bad_utf8": Counted("clients_closed", "bad_utf8", "clients that sent text that is not UTF-8 (1007)"),
    "bad_deflate": Counted(
        "clients_closed", "bad_deflate", "clients that sent a compressed message that can't be inflated (1007)"
    ),
    "message_too_big": Counted(
        "clients_closed", "message_too_big", "clients that sent more than `--max-message-size` (1009)"
    ),
    "internal_error": Counted(
        "clients_closed", "internal_error", "clients that were closed since the broker failed at something (1011)"
    ),
    "refused_by_backend": Counted("handshakes_failed", "rejected", "clients that a backend rejected (403)"),
    "refused_no_backend": Counted(
        "handshakes_failed", "no_backend", "clients for whom no backend came within `--hold-time` (503)"
    ),
    "refused_no_answer": Counted(
        "handshakes_failed", "no_answer", "clients on whom no backend decided within `--answer-timeout` (504)"
    ),
    "refused_bad_answer": Counted(
        "handshakes_failed", "bad_answer", "clients about whom a backend's answer could not be used (502)"
    ),
    "refused_long_path": Counted(
        "handshakes_failed", "long_path", "clients whose path would have been their room, and is too long for one (414)"
    ),
    "refused_stopping": Counted(
        "handshakes_failed", "undecided", "clients that waited for a decision when the broker stopped (503)"
    ),
    "refused_taken": Counted(
        "handshakes_failed",
        "taken",
        "clients whose id was taken at another broker in the moment in which they were let in (409)",
    ),
    "handshake_refused": Counted(
        "handshakes_refused",
        "",
        "the seven above together, and clients that came while the broker stopped",
    ),
    "handshakes_abandoned": Counted("handshakes_failed", "abandoned", "clients that left before they were decided on"),
    "handshake_bad_request": Counted(
        "handshakes_failed",
        "bad_request",
        "requests that are no valid HTTP, or no valid request for a WebSocket (400, 405)",
    ),
    "handshake_timeout": Counted(
        "handshakes_failed", "timeout", "requests that were not whole within `--handshake-timeout` (408)"
    ),
    "handshake_head_too_large": Counted(
        "handshakes_failed", "head_too_large", "requests longer than `--max-head-size` (431)"
    ),
    "handshake_not_websocket": Counted(
        "handshakes_failed", "not_websocket", "requests for something else than a WebSocket (426)"
    ),
    "handshake_stopping": Counted("handshakes_failed", "stopping", "requests that came while the broker stopped (503)"),
    "origin_refused": Counted(
        "handshakes_failed", "origin", "clients whose page is of an origin that may not connect (403)"
    ),
    "limit_clients": Counted(
        "handshakes_failed", "limit_clients", "clients that came when there were `--max-connections` (503)"
    ),
    "limit_address": Counted(
        "handshakes_failed",
        "limit_address",
        "connections from an address that had `--max-connections-per-address` (429)",
    ),
    "limit_handshakes": Counted(
        "handshakes_failed",
        "limit_handshakes",
        "connections that came when `--max-handshakes` were without a verdict (503, or closed before TLS)",
    ),
    "handshake_displaced": Counted(
        "handshakes_failed",
        "displaced",
        "connections that were dropped with their request half sent, to make room for others (`--max-handshakes`)",
    ),
    "tls_handshake_failed": Counted(
        "handshakes_failed",
        "tls",
        "connections whose TLS handshake failed, or was not done within `--handshake-timeout`",
    ),
    "tls_handshake_displaced": Counted(
        "handshakes_failed",
        "tls_displaced",
        "connections that were dropped with their TLS handshake half done, to make room for others",
    ),
    "lines_malformed": Counted("lines_refused", "malformed", "lines of backends that are not what the protocol allows"),
    "lines_overlong": Counted("lines_refused", "overlong", "lines of backends that are longer than the broker takes"),
    "links_broken": Counted(
        "links_broken", "", "links of backends that were closed for breaking the protocol, or for silence"
    ),
    "link_without_token": Counted(
        "links_refused", "token", "peers that wanted to be backends without a token, or with a wrong one"
    ),
    "link_first_line_too_long": Counted(
        "links_refused", "first_line", "peers on the backends' port whose first line was longer than 64 KiB"
    ),
    "link_crowded_out": Counted(
        "links_refused", "crowded", "peers on the backends' port that were cut off for others: too many said nothing"
    ),
    "link_tls_failed": Counted(
        "links_refused", "tls", "peers on the backends' port that did not finish the TLS handshake"
    ),
    "commands_unknown": Counted("commands_unknown", "", "commands with an action that the broker does not know"),
    "commands_failed": Counted(
        "commands_failed", "", "commands at which the broker itself failed; its log has the traceback"
    ),
    "responses_unexpected": Counted(
        "responses_unexpected", "", "answers about clients that had left, or were decided on"
    ),
    "hellos_late": Counted("hellos_late", "", "hellos that came when it was too late for them, and were ignored"),
    "watched_dropped": Counted("watched_dropped", "", "lines that a tool such as `pystrands tail` missed"),
    "engine_published": Counted("engine_published", "", "messages that were sent on to other brokers"),
    "engine_received": Counted("engine_received", "", "messages that came from other brokers"),
    "engine_repairs": Counted(
        "engine_repairs", "", "times that other brokers were asked for what had not come, as after an outage of NATS"
    ),
    "engine_gaps": Counted("engine_gaps", "", "times that messages of another broker may have been lost for good"),
    "engine_lost": Counted("engine_lost", "", "messages of other brokers that may be lost for good, at most"),
    "engine_unknown": Counted("engine_unknown", "", "what came over NATS and could not be read: of another version"),
    "engine_questions_refused": Counted(
        "engine_questions_refused",
        "",
        "questions to other brokers that got an error, since too many waited for answers",
    ),
}
"""Every counter that there is; a test looks for their names in the code."""

GAUGES: Final[Mapping[str, str]] = {
    "clients": "clients that are connected",
    "rooms": "rooms with at least one client",
    "backends": "backends that are connected; programs that only send are none",
    "ready": "1 when `/readyz` says yes, else 0",
    "handshakes": "connections that have no answer yet to their request for a WebSocket",
    "queue_messages": "messages that wait: for a backend, for its link to come back, or for its credit",
    "queue_bytes": "memory that these messages take, about 300 bytes each beside their content",
    "events_in_flight": "events that backends of protocol 2 have and have not finished",
    "engine_connected": "1 while NATS is reached, else 0",
    "engine_peers": "other brokers of the cluster that live",
    "engine_held_bytes": "memory that the cluster takes: what other brokers may ask for again (8 MiB at most), 400"
    " bytes for each client, what waits for answers; part of `pystrands_waiting_bytes`",
    "engine_heartbeat_lag_seconds": "time since the other broker was heard that has been silent for longest; they are"
    " heard every second",
    "waiting_bytes": "memory that is kept for others, which `--memory-budget` bounds; at most half a second old",
}

HISTOGRAMS: Final[Mapping[str, str]] = {
    "handshake_seconds": "time from a client's connection to its 101; with TLS from the end of TLS' own handshake",
    "handling_seconds": "time from an event's sending to a backend until its handler has finished; of 16 events one is"
    " timed, and none of protocol 1",
    "flush_seconds": "time in which one turn of the event loop has written to clients",
}


def gauges_table() -> str:
    """Return all but the counters as a Markdown table; the docs have it."""
    rows = ["| Metric | Kind | Tells |", "|---|---|---|"]
    rows += [f"| `{PREFIX}{name}` | gauge | {text} |" for name, text in GAUGES.items()]
    rows += [f"| `{PREFIX}{name}` | histogram | {text} |" for name, text in HISTOGRAMS.items()]
    return "\n".join(rows) + "\n"


def counters_table() -> str:
    """Return the counters as a Markdown table; the docs have it."""
    rows = ["| Counter | Metric | Counts |", "|---|---|---|"]
    rows += [f"| `{name}` | `{each.sample}` | {each.text} |" for name, each in COUNTERS.items()]
    return "\n".join(rows) + "\n"
