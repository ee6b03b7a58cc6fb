"""The broker's options, once: the command line, environment names, TOML keys and the docs' table are made from here."""

import dataclasses
import functools
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, cast, get_args

from pystrands.broker.admission.origins import AllowedOrigins
from pystrands.broker.admission.proxies import TrustedProxies
from pystrands.broker.option import DAY, GIB, KIB, MIB, Option, Value, option
from pystrands.broker.policies import QueuePolicy, RatePolicy, SlowPolicy
from pystrands.engine.nats.options import NatsOptions
from pystrands.errors import ConfigError
from pystrands.protocol.address import host_and_port, is_loopback

__all__ = ["BrokerConfig", "options", "options_table"]

_CLUSTER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What a broker can be told. Sizes are in bytes, times in seconds; a value that can't work raises ConfigError."""

    ws_host: str = option(
        "127.0.0.1", "address that WebSocket clients connect to; 0.0.0.0 for every interface, :: for IPv6 as well"
    )
    ws_port: int = option(
        8080,
        "port for WebSocket clients; 0 takes any free one",
        minimum=0,
        maximum=65535,
        older_env="PYSTRAND_WS_PORT",
    )
    tcp_host: str = option(
        "127.0.0.1", "address that backends connect to; one that other machines reach needs --backend-token"
    )
    tcp_port: int = option(
        8081, "port for backends; 0 takes any free one", minimum=0, maximum=65535, older_env="PYSTRAND_TCP_PORT"
    )
    admin_host: str = option("127.0.0.1", "address of the admin port; who reaches it may read all metrics")
    admin_port: int = option(
        -1,
        "port for metrics and health checks; 0 takes any free one, -1 opens none",
        minimum=-1,
        maximum=65535,
    )
    tls_cert: str = option(
        "",
        "certificate chain in PEM: clients connect with wss:// and without a proxy; read again on SIGHUP",
        text="file",
    )
    tls_key: str = option("", "its private key in PEM, where the certificate's file does not have it", text="file")
    backend_token: tuple[str, ...] = option(
        (),
        "what backends have to give to be let in; several, so that one can be replaced by another",
        text="text",
        secret=True,
    )
    backend_token_file: str = option("", "file with such tokens, one a line; read again on SIGHUP", text="file")
    allow_insecure_backends: bool = option(
        False, "let anybody be a backend who reaches --tcp-host, other machines included"
    )
    backend_tls_cert: str = option(
        "", "certificate that the backends' port shows, in PEM; turns TLS on there; read again on SIGHUP", text="file"
    )
    backend_tls_key: str = option("", "its key, where that is not in the same file", text="file")
    backend_tls_ca: str = option(
        "", "certificates in PEM, one of which must have signed that of each backend", text="file"
    )
    nats_url: tuple[str, ...] = option(
        (),
        "NATS servers that join several brokers to one system, `nats://` or `tls://` and host and port, with commas"
        " between; the first that answers is used, so give every broker the same list",
        text="text",
        secret=True,
    )
    cluster: str = option("default", "name of that system: brokers with the same one are together", text="text")
    advertise: str = option(
        "",
        "`host:port` at which backends reach this broker, which the other brokers tell them; `:port` stands for the"
        " host at which a backend has found one of those; by default `--tcp-host`, or the address that this machine has"
        " towards NATS, and the port for backends",
        text="text",
    )
    nats_credentials: str = option(
        "", "file with what NATS is shown: `.creds`, or the seed of an nkey; read again at each connection", text="file"
    )
    nats_tls_ca: str = option(
        "",
        "certificates in PEM, one of which must have signed that of NATS; by default those that the system trusts",
        text="file",
    )
    nats_tls_cert: str = option("", "certificate that is shown to NATS, in PEM", text="file")
    nats_tls_key: str = option("", "its key, where that is not in the same file", text="file")
    queue_size: int = option(
        1000,
        "messages that wait while no backend is connected; 0 turns the queue off",
        unit="messages",
        minimum=0,
        maximum=10**9,
        older_env="PYSTRAND_QUEUE_SIZE",
    )
    queue_bytes: int = option(
        16 * MIB,
        "memory of all messages that wait while no backend is connected; each takes 300 bytes beside its content",
        unit="bytes",
        minimum=1,
        maximum=GIB,
    )
    queue_policy: QueuePolicy = option(  # noqa: RUF009 - option() gives a field()
        "backpressure",
        "what happens when the queue is full: stop reading from the clients that send, drop the oldest message,"
        " or disconnect the client that sends",
        choices=get_args(QueuePolicy),
    )
    max_message_size: int = option(
        MIB,
        "largest message, either way; a client that sends more is closed (1009)",
        unit="bytes",
        minimum=1,
        maximum=GIB,
    )
    max_head_size: int = option(
        16 * KIB, "largest HTTP request that opens a WebSocket", unit="bytes", minimum=256, maximum=MIB
    )
    allowed_origins: tuple[str, ...] = option(
        (),
        "origins of the web pages that may connect, with commas between: `https://app.example.com`,"
        " `https://*.example.com` for subdomains, `*` for all; by default those with the host and port that they"
        " connect to; while the broker listens on loopback those of localhost, and these through `--trusted-proxies`",
    )
    trusted_proxies: tuple[str, ...] = option(
        (),
        "addresses and networks of the proxies in front, with commas between, such as `127.0.0.1,10.0.0.0/8`: a"
        " client's address is what they say in `X-Forwarded-For` or `Forwarded`",
    )
    max_rooms_per_client: int = option(
        1000, "rooms that one client may be in at once", unit="rooms", minimum=1, maximum=10**6
    )
    max_connections: int = option(
        0, "clients at once; further ones get a 503; 0: no such limit", unit="connections", minimum=0, maximum=10**9
    )
    max_connections_per_address: int = option(
        0,
        "connections at once from one IPv4 address or one IPv6 network of 64 bits; further ones get a 429; 0: no limit",
        unit="connections",
        minimum=0,
        maximum=10**9,
    )
    max_handshakes: int = option(
        10_000,
        "connections at once that have not sent their request or wait for a backend's decision; further ones get a 503;"
        " 0: no limit",
        unit="connections",
        minimum=0,
        maximum=10**9,
    )
    handshake_timeout: float = option(
        10.0,
        "time for a new connection to send its HTTP request, the TLS handshake included",
        unit="s",
        above=0,
        maximum=DAY,
    )
    hold_time: float = option(
        5.0, "time that a new client waits for a backend to be there, then gets a 503", unit="s", minimum=0, maximum=DAY
    )
    answer_timeout: float = option(
        10.0, "time for a backend to accept or reject a client, which then gets a 504", unit="s", above=0, maximum=DAY
    )
    ping_interval: float = option(
        25.0, "time between keep-alive pings to a client; 0 turns them off", unit="s", minimum=0, maximum=DAY
    )
    ping_missed: int = option(
        2, "pings that a client may leave unanswered before it counts as gone", unit="pings", minimum=1, maximum=1000
    )
    compression: bool = option(
        False, "compress messages to clients that can inflate them (permessage-deflate), and take compressed ones"
    )
    compression_threshold: int = option(
        KIB, "messages of fewer bytes are not compressed", unit="bytes", minimum=1, maximum=GIB
    )
    compression_level: int = option(
        3, "how hard to compress: 1 is fastest, 9 saves the last few bytes", minimum=1, maximum=9
    )
    idle_timeout: float = option(
        0.0,
        "time after which a client that has sent no message is closed (1001), however it answers pings; 0: never",
        unit="s",
        minimum=0,
        maximum=DAY,
    )
    message_timeout: float = option(
        60.0,
        "time for one message of a client to arrive whole; then it is closed (1008)",
        unit="s",
        above=0,
        maximum=DAY,
    )
    client_message_rate: float = option(
        0.0,
        "messages per second that one client may send; two seconds' worth may come at once; 0: no limit",
        unit="messages",
        minimum=0,
        maximum=10**9,
    )
    client_byte_rate: int = option(
        0,
        "bytes of messages per second that one client may send; two seconds' worth, or one message of the largest size,"
        " may come at once; 0: no limit",
        unit="bytes",
        minimum=0,
        maximum=GIB,
    )
    client_rate_policy: RatePolicy = option(  # noqa: RUF009 - option() gives a field()
        "delay",
        "what happens to a client past its rate: read no further from it until it is within, or close it (1008)",
        choices=get_args(RatePolicy),
    )
    client_buffer: int = option(
        4 * MIB,
        "bytes that may wait for one client; from half of it on those who send to it wait",
        unit="bytes",
        minimum=1,
        maximum=GIB,
    )
    slow_client_time: float = option(
        20.0,
        "time that a client may take no byte while more than half of its buffer waits; then it is too slow",
        unit="s",
        above=0,
        maximum=DAY,
    )
    slow_client_policy: SlowPolicy = option(  # noqa: RUF009 - option() gives a field()
        "disconnect",
        "what happens to a client that is too slow: close it (1013), or let it miss messages until it has caught up",
        choices=get_args(SlowPolicy),
    )
    link_buffer: int = option(
        MIB,
        "bytes that may wait for a backend before its clients are read no further",
        unit="bytes",
        minimum=1,
        maximum=GIB,
    )
    memory_budget: int = option(
        GIB,
        "bytes that may be kept for others in all before those who caused most are closed; 0: no such limit",
        unit="bytes",
        minimum=0,
        maximum=1024 * GIB,
    )
    close_timeout: float = option(
        5.0,
        "time for a client to answer a close, and for backends to finish when the broker stops",
        unit="s",
        above=0,
        maximum=DAY,
    )
    drain_time: float = option(
        5.0, "time over which clients are closed when the broker stops", unit="s", minimum=0, maximum=DAY
    )
    resume_window: float = option(
        5.0,
        "time that a backend may be without its link before its clients go to others",
        unit="s",
        minimum=0,
        maximum=DAY,
    )
    client_resume_window: float = option(
        120.0,
        "time for which a client of `pystrands.v1` may be without its connection before it is gone; 0: it may not",
        unit="s",
        minimum=0,
        maximum=DAY,
    )
    no_sdk: bool = option(False, "serve no `/pystrands.js`, the client for web pages, to those who connect")
    history_bytes: int = option(
        64 * MIB,
        "memory of what was sent to rooms lately: their histories, and for clients of `pystrands.v1` that come back",
        unit="bytes",
        minimum=0,
        maximum=GIB,
    )
    heartbeat_interval: float = option(15.0, "time between heartbeats to a backend", unit="s", above=0, maximum=DAY)

    def __post_init__(self) -> None:
        for each in options():
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))
        if self.ws_port and (self.ws_host, self.ws_port) == (self.tcp_host, self.tcp_port):
            raise ConfigError(
                "tcp_port", f"{self.tcp_port} is the port for WebSocket clients too: choose another for one"
            )
        for name, check in (("allowed_origins", AllowedOrigins), ("trusted_proxies", TrustedProxies)):
            try:
                check(getattr(self, name))
            except ValueError as error:
                raise ConfigError(name, str(error)) from None
        if self.admin_port >= 0:
            self._check_admin_port()
        if self.tls_key and not self.tls_cert:
            raise ConfigError("tls_key", "a private key needs its certificate: give tls-cert too")
        self._check_backends()
        self._check_cluster()
        if self.client_buffer < self.max_message_size:
            raise ConfigError(
                "client_buffer",
                f"{self.client_buffer} bytes can't hold one message of the largest size ({self.max_message_size}):"
                " raise client-buffer or lower max-message-size",
            )

    def _check_admin_port(self) -> None:
        if find_spec("prometheus_client") is None:
            raise ConfigError("admin_port", "prometheus-client is not installed: pip install prometheus-client")
        for side, host, port in (("ws", self.ws_host, self.ws_port), ("tcp", self.tcp_host, self.tcp_port)):
            if self.admin_port and (self.admin_host, self.admin_port) == (host, port):
                raise ConfigError("admin_port", f"{port} is --{side}-port too: choose another for one")

    @property
    def backends_are_checked(self) -> bool:
        """Whether a backend has to show that it may be one, by a token or a certificate."""
        return bool(self.backend_token or self.backend_token_file or self.backend_tls_ca)

    def _check_backends(self) -> None:
        """Raise ConfigError where strangers could be backends, and nobody has said that they may."""
        try:
            "".join(self.backend_token).encode()
        except UnicodeEncodeError:
            raise ConfigError("backend_token", "is not valid Unicode text: no backend could give it") from None
        for name in ("backend_tls_key", "backend_tls_ca"):
            if getattr(self, name) and not self.backend_tls_cert:
                raise ConfigError(name, "is of no use without backend-tls-cert, which turns TLS on: set that as well")
        if not (self.backends_are_checked or self.allow_insecure_backends or is_loopback(self.tcp_host)):
            raise ConfigError(
                "tcp_host",
                f"{self.tcp_host!r} is reached from other machines, and whoever reaches it could send to every client:"
                " set backend-token (or backend-token-file), or allow-insecure-backends where nobody else gets there",
            )

    def _check_cluster(self) -> None:
        """Raise ConfigError for what could not join this broker to others."""
        if not _CLUSTER.fullmatch(self.cluster):
            raise ConfigError("cluster", f"{self.cluster[:64]!r} is not a name of 1 to 64 letters, digits, - and _")
        # ":8081" has the host by which a backend has reached who tells it.
        advertised = f"host{self.advertise}" if self.advertise.startswith(":") else self.advertise
        if advertised and host_and_port(advertised) is None:
            raise ConfigError(
                "advertise",
                f"{self.advertise[:64]!r} is not host:port, such as broker-1.internal:8081 or [fd00::1]:8081",
            )
        for name in ("advertise", "nats_credentials", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
            if getattr(self, name) and not self.nats_url:
                raise ConfigError(name, "is of no use without nats-url, which names the servers: set that as well")
        if self.nats_url:
            NatsOptions(
                urls=self.nats_url,
                credentials=self.nats_credentials,
                tls_ca=self.nats_tls_ca,
                tls_cert=self.nats_tls_cert,
                tls_key=self.nats_tls_key,
            )


@functools.cache
def options() -> tuple[Option, ...]:
    """Return every option of the broker, in the order of the docs."""
    return tuple(
        Option(name=each.name, default=cast("Value", each.default), **each.metadata)
        for each in dataclasses.fields(BrokerConfig)
    )


def options_table() -> str:
    """Return the options as a Markdown table; README has it, and a test compares the two."""
    rows = ["| Option | Default | Meaning |", "|---|---|---|"]
    for each in options():
        meaning = each.help + (f" (`{'`, `'.join(each.choices)}`)" if each.choices else "")
        unit = " s" if each.unit == "s" else ""
        default = f"`{each.default_text}`{unit}" if each.default_text else ""
        rows.append(f"| `{each.flag}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"
