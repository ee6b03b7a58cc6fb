import dataclasses
import json
import tomllib

import pytest

from pystrands.broker.config import BrokerConfig, options, options_table
from pystrands.broker.option import MIB, Option
from pystrands.errors import ConfigError, PyStrandsError

BY_NAME = {option.name: option for option in options()}


def problem(**values):
    with pytest.raises(ConfigError) as caught:
        BrokerConfig(**values)
    return caught.value


def test_the_defaults_are_those_of_the_documentation():
    config = BrokerConfig()
    assert (config.ws_host, config.ws_port, config.tcp_host, config.tcp_port) == ("127.0.0.1", 8080, "127.0.0.1", 8081)
    assert (config.queue_size, config.queue_bytes, config.queue_policy) == (1000, 16 * MIB, "backpressure")
    assert (config.max_message_size, config.client_buffer, config.link_buffer) == (MIB, 4 * MIB, MIB)
    assert (config.ping_interval, config.ping_missed) == (25.0, 2)


def test_a_config_cannot_be_changed_nor_given_unknown_or_positional_values():
    config = BrokerConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ws_port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        BrokerConfig("127.0.0.1")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        BrokerConfig(ws_prt=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_option_tells_all_about_itself(option):
    assert option.help
    assert option.flag == "--" + option.name.replace("_", "-")
    assert option.env == "PYSTRANDS_" + option.name.upper()
    assert option.metavar or option.is_switch
    assert option.kind
    assert option.parse(option.default_text) == option.default
    assert option.check(option.default) == option.default
    assert f"`{option.flag}`" in options_table()
    if not isinstance(option.default, str | bool | tuple):
        assert option.maximum is not None
        assert option.minimum is not None or option.above is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ws_port", -1),
        ("ws_port", 65536),
        ("ws_port", True),
        ("ws_port", "8080"),
        ("ws_port", 80.5),
        ("ws_port", None),
        ("tcp_port", 10**30),
        ("ws_host", ""),
        ("ws_host", "a b"),
        ("ws_host", "a..b"),
        ("ws_host", "a" * 64 + ".example"),
        ("ws_host", 7),
        ("queue_policy", "drop-newest"),
        ("queue_bytes", 0),
        ("max_message_size", 0),
        ("handshake_timeout", 0),
        ("handshake_timeout", float("nan")),
        ("answer_timeout", float("inf")),
        ("answer_timeout", 10**400),
        ("ping_interval", -0.1),
        ("ping_missed", 0),
        ("hold_time", True),
        ("slow_client_policy", ""),
        ("allowed_origins", ("https://example.com/",)),
        ("allowed_origins", "https://example.com"),
        ("trusted_proxies", ("10.0.0.0/33",)),
        ("max_connections", -1),
        ("max_handshakes", -1),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name, value):
    error = problem(**{name: value})
    assert error.option == name
    assert "\n" not in error.problem
    assert len(error.problem) < 200
    assert str(error) == f"{name}: {error.problem}"
    assert isinstance(error, PyStrandsError)
    assert isinstance(error, ValueError)


def test_a_problem_says_what_would_be_right():
    assert problem(ws_port=70000).problem == "70000 is not a whole number from 0 to 65535"
    assert problem(answer_timeout=0).problem == "0.0 is not a number of seconds above 0, up to 86400"
    assert problem(queue_policy="x").problem == "'x' is not one of backpressure, drop-oldest, disconnect"
    assert problem(max_head_size=1).problem == "1 is not a whole number of bytes from 256 to 1 MiB"
    for wrong in (" ", "localhost:8081", "ws://localhost", "[::1]:8081"):
        told = f"{wrong!r} is not a host name or an address, without scheme and port"
        assert problem(tcp_host=wrong).problem == told


def test_whole_seconds_are_numbers_too():
    config = BrokerConfig(hold_time=0, ping_interval=30)
    assert config.hold_time == 0
    assert isinstance(config.ping_interval, float)


@pytest.mark.parametrize("host", ["localhost", "localhost.", "0.0.0.0", "::", "fe80::1%eth0", "bücher.example"])
def test_hosts_are_names_and_addresses(host):
    assert BrokerConfig(ws_host=host).ws_host == host


def test_one_address_cannot_serve_clients_and_backends():
    assert problem(ws_port=9000, tcp_port=9000).option == "tcp_port"
    BrokerConfig(ws_port=9000, tcp_port=9000, tcp_host="::1")
    BrokerConfig(ws_port=0, tcp_port=0)


def test_a_client_buffer_holds_at_least_one_message():
    error = problem(max_message_size=5 * MIB)
    assert error.option == "client_buffer"
    assert "max-message-size" in error.problem
    BrokerConfig(max_message_size=5 * MIB, client_buffer=5 * MIB)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ws_port", "0", 0),
        ("ws_port", " 8080 ", 8080),
        ("max_message_size", "2048", 2048),
        ("max_message_size", "2k", 2048),
        ("max_message_size", "2 KiB", 2048),
        ("max_message_size", "3MB", 3 * MIB),
        ("client_buffer", "1GiB", 1024 * MIB),
        ("client_buffer", "17 B", 17),
        ("hold_time", "0.25", 0.25),
        ("hold_time", "3", 3.0),
        ("queue_policy", "drop-oldest", "drop-oldest"),
        ("queue_policy", "Backpressure", "backpressure"),
        ("ws_host", "::1", "::1"),
    ],
)
def test_texts_are_read(name, text, value):
    read = BY_NAME[name].parse(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ws_port", ""),
        ("ws_port", "http"),
        ("ws_port", "80 80"),
        ("ws_port", "8_080"),
        ("ws_port", "٨٠"),
        ("ws_port", "9" * 5000),
        ("ws_port", "1k"),
        ("max_message_size", "-1"),
        ("max_message_size", "1.5M"),
        ("max_message_size", "2 T"),
        ("max_message_size", "9" * 5000),
        ("hold_time", "soon"),
        ("hold_time", "nan"),
        ("hold_time", "1e999"),
        ("queue_policy", "backpresure"),
    ],
)
def test_texts_that_mean_nothing_are_refused(name, text):
    with pytest.raises(ConfigError) as caught:
        BY_NAME[name].parse(text)
    assert caught.value.option == name
    assert len(caught.value.problem) < 200


def test_the_help_of_a_value():
    assert BY_NAME["queue_policy"].metavar == "[backpressure|drop-oldest|disconnect]"
    assert BY_NAME["max_message_size"].metavar == "SIZE"
    assert BY_NAME["hold_time"].metavar == "SECONDS"
    assert BY_NAME["ping_missed"].metavar == "INTEGER"
    assert BY_NAME["ws_host"].metavar == "TEXT"
    assert Option(name="x", default=1, help="x").range_text == ""


def test_a_token_that_nobody_could_give_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="not valid Unicode") as caught:
        BrokerConfig(backend_token=("good", "secret\udcff"))
    assert caught.value.option == "backend_token"
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_defaults_survive_a_toml_file():
    lines = [f"{option.key} = {json.dumps(option.default)}" for option in options()]
    read = tomllib.loads("\n".join(lines))
    assert BrokerConfig(**{key.replace("-", "_"): value for key, value in read.items()}) == BrokerConfig()


SWITCH = Option(name="loud", default=False, help="x")
LIST = Option(name="names", default=(), help="x")
FILE = Option(name="cert", default="", help="x", text="file")
SECRET = Option(name="token", default=(), help="x", text="text", secret=True)


def test_a_switch_is_on_or_off():
    assert [SWITCH.parse(text) for text in ("true", "Yes", "1", "off", "0")] == [True, True, True, False, False]
    assert SWITCH.check(True) is True
    for wrong in (1, "true", None):
        with pytest.raises(ConfigError, match="true or false"):
            SWITCH.check(wrong)
    with pytest.raises(ConfigError, match="'maybe' is not true or false"):
        SWITCH.parse("maybe")
    assert (SWITCH.default_text, SWITCH.metavar) == ("false", "")


def test_a_list_has_commas_and_no_empty_text():
    assert LIST.parse(" a, b,,c ") == ("a", "b", "c")
    assert LIST.parse("") == ()
    assert LIST.check(["a"]) == ("a",)
    for wrong in ("a", ["a", 1], [""], (" a",)):
        with pytest.raises(ConfigError, match="a list of texts"):
            LIST.check(wrong)


def test_a_file_may_be_any_path_and_none():
    assert FILE.parse("") == ""
    assert FILE.parse("/etc/a b.pem") == "/etc/a b.pem"
    assert FILE.metavar == "FILE"


def test_what_is_secret_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        SECRET.check(["hunter2", 1])
    assert "hunter2" not in str(caught.value)


# ---- several brokers


@pytest.mark.parametrize(
    "url",
    [
        "nats://127.0.0.1:4222",
        "nats://localhost",
        "tls://user:password@nats.internal:4222",
        "nats://s3cret@[::1]:4222",
        "nats://s%2F3@nats/",
    ],
)
def test_servers_of_nats_are_urls(url):
    assert BrokerConfig(nats_url=("nats://localhost:4222", url)).nats_url[1] == url


@pytest.mark.parametrize(
    "url",
    [
        "s3cret@localhost:4222",
        "http://s3cret@localhost:4222",
        "nats://s3cret@",
        "nats://s3cret@localhost:0",
        "nats://s3cret@localhost:99999",
        "nats://s3cret@[::1:4222",
        "nats://s3cret@localhost:4222/x",
        "nats://s3cret@localhost:4222?a=b",
        "nats://s3/cret@localhost:4222",
    ],
)
def test_what_is_no_server_of_nats_is_refused_by_its_place_and_not_shown(url):
    error = problem(nats_url=("nats://localhost:4222", url))
    assert error.option == "nats_url"
    assert error.problem.startswith("address 2 of 2 ")
    assert "write nats://host:4222" in error.problem
    assert "cret" not in str(error)


def test_addresses_of_nats_are_not_shown_since_they_may_hold_a_token():
    assert "hunter2" not in repr(BrokerConfig(nats_url=("nats://hunter2@localhost:4222",)))


@pytest.mark.parametrize("name", ["a", "chat-2_EU", "x" * 64])
def test_the_name_of_a_cluster_can_stand_in_a_subject(name):
    assert BrokerConfig(cluster=name).cluster == name


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "ü", "x" * 65, "a\n"])
def test_any_other_name_of_a_cluster_is_refused(name):
    assert problem(cluster=name).option == "cluster"


@pytest.mark.parametrize("address", ["broker-1.internal:8081", "10.0.0.7:1", "[fd00::1]:65535", ":8081"])
def test_what_a_broker_advertises_is_host_and_port(address):
    assert BrokerConfig(nats_url=("nats://localhost",), advertise=address).advertise == address


@pytest.mark.parametrize(
    "address",
    ["broker-1", "broker-1:", ":", ":0", "broker-1:0", "broker-1:65536", "fd00::1:8081", "tcp://b:8081", "b:-1"],
)
def test_what_no_backend_could_reach_is_not_advertised(address):
    error = problem(nats_url=("nats://localhost",), advertise=address)
    assert error.option == "advertise"
    assert "is not host:port" in error.problem


@pytest.mark.parametrize("name", ["advertise", "nats_credentials", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"])
def test_an_option_of_nats_without_its_servers_is_told(name):
    error = problem(**{name: "localhost:1"})
    assert error.option == name
    assert "nats-url" in error.problem


def test_a_key_for_nats_needs_its_certificate():
    assert problem(nats_url=("tls://localhost",), nats_tls_key="key.pem").option == "nats_tls_key"
    BrokerConfig(nats_url=("tls://localhost",), nats_tls_key="key.pem", nats_tls_cert="cert.pem")


def test_cluster_rule_18_a_server_of_nats_that_others_reach_needs_credentials():
    for url in ("nats://10.0.0.7:4222", "tls://nats.internal"):
        error = problem(nats_url=(url,))
        assert error.option == "nats_url"
        assert "is reached from other machines" in error.problem
    BrokerConfig(nats_url=("nats://token@10.0.0.7",))
    BrokerConfig(nats_url=("nats://10.0.0.7",), nats_credentials="broker.creds")
    BrokerConfig(nats_url=("tls://10.0.0.7",), nats_tls_cert="broker.pem")
