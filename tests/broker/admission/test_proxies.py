"""Who is behind the proxies, and that nobody else can say so."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.admission.proxies import TrustedProxies

pytestmark = pytest.mark.interpreted

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])
PEER = ("10.0.0.1", 4711)


def client(peer=PEER, **headers):
    named = {name.replace("_", "-").title(): [value] if isinstance(value, str) else value
             for name, value in headers.items()}  # fmt: skip
    return PROXIES.client(peer, named)


def test_who_comes_directly_is_who_the_socket_says():
    for peer in (("203.0.113.7", 80), ("2001:db8::1", 80), ("", 0), ("nonsense", 0)):
        assert client(peer) == peer
        assert client(peer, x_forwarded_for="198.51.100.1", forwarded="for=198.51.100.1") == peer
    assert TrustedProxies([]).client(PEER, {"X-Forwarded-For": ["198.51.100.1"]}) == PEER


def test_who_is_trusted():
    for host in ("10.255.0.3", "192.0.2.1", "fd00::7", "::ffff:10.0.0.1"):
        assert PROXIES.trust(host)
    for host in ("11.0.0.1", "192.0.2.2", "fe80::1", "::1", "", "nonsense"):
        assert not PROXIES.trust(host)


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "nonsense", "", "10.0.0.0/33", "10.0.0.0-10.0.0.9", "*"])
def test_an_entry_that_is_no_network_is_named(entry):
    with pytest.raises(ValueError, match="is neither an address nor a network") as caught:
        TrustedProxies(["10.0.0.0/8", entry])
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("203.0.113.7", ("203.0.113.7", 0)),
        (" 203.0.113.7\t", ("203.0.113.7", 0)),
        ("203.0.113.7:5000", ("203.0.113.7", 5000)),
        ("2001:db8::7", ("2001:db8::7", 0)),
        ("[2001:DB8:0::7]:5000", ("2001:db8::7", 5000)),
        ("[2001:db8::7]", ("2001:db8::7", 0)),
        ("::ffff:203.0.113.7", ("203.0.113.7", 0)),
        ("198.51.100.1, 203.0.113.7", ("203.0.113.7", 0)),
        ("198.51.100.1, 203.0.113.7, 10.9.9.9, 192.0.2.1", ("203.0.113.7", 0)),
        ("198.51.100.1,,203.0.113.7, ,", ("203.0.113.7", 0)),
        (["198.51.100.1", "203.0.113.7", "10.9.9.9"], ("203.0.113.7", 0)),
        ("nonsense, 203.0.113.7", ("203.0.113.7", 0)),
        ("10.2.2.2, 10.3.3.3", ("10.2.2.2", 0)),
        ("198.51.100.1, nonsense, 10.3.3.3", ("10.3.3.3", 0)),
        ("198.51.100.1, unix:", PEER),
        ("unknown", PEER),
        ("203.0.113.7:99999999", PEER),
        ("203.0.113.7:65536", PEER),
        ("203.0.113.07", PEER),
        ("fe80::1%eth0", PEER),
        ("203.0.113.7 198.51.100.1", PEER),
        ("", PEER),
    ],
)
def test_x_forwarded_for(value, expected):
    assert client(x_forwarded_for=value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=203.0.113.7", ("203.0.113.7", 0)),
        ('For="203.0.113.7:5000"', ("203.0.113.7", 5000)),
        ('for="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", 4711)),
        ("for=203.0.113.7;proto=https;by=10.0.0.1", ("203.0.113.7", 0)),
        ("proto=https ; for=203.0.113.7", ("203.0.113.7", 0)),
        ("for=198.51.100.1, for=203.0.113.7, for=10.9.9.9", ("203.0.113.7", 0)),
        (["for=198.51.100.1", "for=203.0.113.7,for=10.9.9.9"], ("203.0.113.7", 0)),
        ('for=198.51.100.1;host="a,b;c\\"", for=203.0.113.7', ("203.0.113.7", 0)),
        ('for="20\\3.0.113.7"', ("203.0.113.7", 0)),
        (";for=203.0.113.7;,,", ("203.0.113.7", 0)),
        ('for="nonsense', PEER),
        ('for="x, for=203.0.113.7', PEER),
        (['for="x', "for=203.0.113.7"], ("203.0.113.7", 0)),
        (["for=198.51.100.1", 'for="x'], PEER),
        ('for="x, for="[2001:db8::1]"', PEER),
        ("for=203.0.113.7 for=198.51.100.1", PEER),
        ("for=203.0.113.7;for=198.51.100.1", PEER),
        ("for=198.51.100.1, for=unknown", PEER),
        ("for=198.51.100.1, for=_hidden", PEER),
        ("for=198.51.100.1, proto=https", PEER),
        ("for=198.51.100.1, for=unknown, for=10.3.3.3", ("10.3.3.3", 0)),
        ("for", PEER),
        ("203.0.113.7", PEER),
        ("", PEER),
    ],
)
def test_forwarded(value, expected):
    assert client(forwarded=value) == expected


def test_headers_that_do_not_agree_do_not_count():
    assert client(x_forwarded_for="203.0.113.7", forwarded="for=203.0.113.7") == ("203.0.113.7", 0)
    assert client(x_forwarded_for="203.0.113.7", forwarded="for=198.51.100.1") == PEER
    assert client(x_forwarded_for="203.0.113.7", forwarded="nonsense") == PEER
    assert client(x_forwarded_for="nonsense", forwarded="for=198.51.100.1") == PEER


ADDRESSES = st.ip_addresses().map(str)
JUNK = st.text(max_size=60) | st.text(alphabet='for=,;"\\[]:.0123456789 ', max_size=60)
OUTSIDE = ADDRESSES.filter(lambda host: not PROXIES.trust(host))


@given(st.lists(JUNK, max_size=3), st.lists(JUNK, max_size=3))
def test_whatever_comes_it_gives_an_address(x_forwarded_for, forwarded):
    host, port = client(x_forwarded_for=x_forwarded_for, forwarded=forwarded)
    ipaddress.ip_address(host)
    assert 0 <= port <= 65_535


def as_hop(host):
    """An address as this library's tests and others' proxies would quote it in Forwarded."""
    return f'for="[{host}]"' if ":" in host else f"for={host}"


@given(JUNK, OUTSIDE, st.lists(st.sampled_from(["10.7.7.7", "192.0.2.1", "fd00::9"]), max_size=3), st.booleans())
def test_what_a_client_writes_before_its_proxies_changes_nothing(junk, real, inner, own_line):
    expected = str(ipaddress.ip_address(real))
    mapped = ipaddress.ip_address(real)
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped:
        expected = str(mapped.ipv4_mapped)
    appended = ", ".join([real, *inner])
    value = [junk, appended] if own_line else [f"{junk}, {appended}"]
    assert client(x_forwarded_for=value) == (expected, 0)
    appended = ", ".join(map(as_hop, [real, *inner]))
    value = [junk, appended] if own_line else [f"{junk}, {appended}"]
    found = client(forwarded=value)
    # On one line with what can't be read nothing counts; what the client would like to be never does.
    assert found == (expected, 0) or (not own_line and found == PEER)
