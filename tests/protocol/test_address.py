import pytest

from pystrands.protocol.address import is_loopback, origin


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
