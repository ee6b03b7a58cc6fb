"""Where brokers are, as options, names and other brokers say."""

import pytest

from pystrands import AsyncPyStrandsClient, ConfigError
from pystrands.client.connection.addresses import Addresses, BrokerAddress, configured, told
from pystrands.client.options import options_of

RED, BLUE, GREEN = BrokerAddress("red", 1), BrokerAddress("blue", 2), BrokerAddress("10.0.0.5", 3, "green")


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("red", ["red:8081"]),
        ("::1", ["[::1]:8081"]),
        ("[::1]", ["[::1]:8081"]),
        (["red"], ["red:8081"]),
        (("red", "blue:8082"), ["red:8081", "blue:8082"]),
        (["red", "red:8081", "[::1]:9", "::1", "10.0.0.5"], ["red:8081", "[::1]:9", "[::1]:8081", "10.0.0.5:8081"]),
    ],
)
def test_what_host_means(host, found):
    client = AsyncPyStrandsClient(host)
    assert client.host is host
    options = options_of(client)
    assert [str(each) for each in configured(options.host, options.port)] == found


@pytest.mark.parametrize(
    "host", [[], (), [""], ["red", ""], ["ws://red"], [7], ["red:0"], ["red:99999"], {"red"}, b"r"]
)
def test_hosts_that_can_not_work(host):
    with pytest.raises(ConfigError, match="host"):
        AsyncPyStrandsClient(host)


def test_a_list_that_is_changed_counts_from_the_next_connect_on():
    hosts = ["red"]
    client = AsyncPyStrandsClient(hosts)
    options = options_of(client)
    hosts.append("blue")
    assert (options.host, options_of(client).host) == (("red",), ("red", "blue"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("blue:8082", BrokerAddress("blue", 8082)),
        ("[::1]:8082", BrokerAddress("::1", 8082)),
        (":8082", BrokerAddress("10.0.0.5", 8082, "green")),
        ("", None),
        ("blue", None),
        (":", None),
        (":0", None),
        ("ws://blue:1", None),
    ],
)
def test_what_a_broker_tells(text, found):
    assert told(text, GREEN) == found


def test_where_one_address_fails_the_next_one_is_tried():
    addresses = Addresses(RED)
    addresses.failed()
    assert addresses.current == RED
    for each in (RED, BLUE, BrokerAddress("blue", 2, "some name"), GREEN):
        addresses.add(each)
    assert list(addresses) == [RED, BLUE, GREEN]
    addresses.failed()
    assert addresses.current == BLUE
    addresses.failed()
    addresses.failed()
    assert addresses.current == RED
    addresses.prefer(GREEN)
    assert list(addresses) == [GREEN, RED, BLUE]
    assert addresses.has(BrokerAddress("10.0.0.5", 3))
    assert not addresses.has(BrokerAddress("10.0.0.5", 4))
