import pytest

from pystrands.protocol.address import host_and_port, is_loopback, origin


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "localhost.", "127.0.0.1", "127.255.3.4", "::1"])
def test_these_are_this_machine_only(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "128.0.0.1", "10.0.0.1", "::2", "fe80::1%lo", "broker", "localhost.example", "127.1", ""]
)
def test_others_reach_these(host):
    assert not is_loopback(host)


def test_one_party_has_an_address_of_version_4_and_64_bits_of_version_6():
    assert origin("192.0.2.7") == "192.0.2.7" == origin("::ffff:192.0.2.7")
    assert origin("2001:db8::1") == origin("2001:db8::ffff:1") != origin("2001:db8:0:1::1")
    assert origin("fe80::1%eth0") == origin("fe80::2")
    assert origin("") == ""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("broker:8081", ("broker", 8081)),
        ("[::1]:1", ("::1", 1)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ("10.0.0.7:08081", ("10.0.0.7", 8081)),
    ],
)
def test_a_host_and_a_port(text, parts):
    assert host_and_port(text) == parts


@pytest.mark.parametrize(
    "text",
    ["", ":", "broker", "broker:", ":1", "[]:1", "::1", "::1:1", "[::1]", "a b:1", "a/b:1", "b:0", "b:65536", "b:+1"],
)
def test_what_is_no_host_and_port(text):
    assert host_and_port(text) is None
