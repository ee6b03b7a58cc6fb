"""Which pages may connect: the list, the default, and what tries to look like one of them."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.broker.admission.origins import AllowedOrigins

pytestmark = pytest.mark.interpreted


def allowed(origin, *entries, host="broker.example.org", local=False, proxied=False):
    headers = {"Host": host if isinstance(host, list) else [host]}
    if origin is not None:
        headers["Origin"] = origin if isinstance(origin, list) else [origin]
    return AllowedOrigins(entries, local=local).allow(headers, proxied=proxied)


# The list.


@pytest.mark.parametrize(
    ("origin", "entry"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com", "HTTPS://App.Example.Com:443"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://[2001:DB8::1]:3000", "http://[2001:db8::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://a.example.com", "https://*.example.com"),
        ("https://a.b.example.com", "https://*.example.com"),
        ("https://a.example.com:8443", "https://*.example.com:8443"),
        ("https://xn--bcher-kva.example.com", "https://*.example.com"),
        ("null", "*"),
        ("anything", "*"),
        (["https://a.example.com", "https://b.example.com"], "*"),
    ],
)
def test_what_an_entry_allows(origin, entry):
    assert allowed(origin, entry)
    assert allowed(origin, "https://other.example.net", entry)


@pytest.mark.parametrize(
    ("origin", "entry"),
    [
        ("http://app.example.com", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com"),
        ("https://app.example.com.evil.net", "https://app.example.com"),
        ("https://evil-app.example.com", "https://app.example.com"),
        ("https://a.app.example.com", "https://app.example.com"),
        ("https://app.example.com/", "https://app.example.com"),
        ("https://app.example.com\n", "https://app.example.com"),
        ("https://evil.net#https://app.example.com", "https://app.example.com"),
        ("https://user@app.example.com", "https://app.example.com"),
        ("https://app.example.com:", "https://app.example.com"),
        ("https://app.example.com:99999", "https://app.example.com"),
        ("https://app.example.com:0443", "http://app.example.com:0443"),
        ("app.example.com", "https://app.example.com"),
        (["https://app.example.com"] * 2, "https://app.example.com"),
        ("https://example.com", "https://*.example.com"),
        ("https://evil-example.com", "https://*.example.com"),
        ("https://a.example.com.evil.net", "https://*.example.com"),
        ("https://a.example.com:8443", "https://*.example.com"),
        ("http://a.example.com", "https://*.example.com"),
        ("https://.example.com", "https://*.example.com"),
        ("https://.example.com.", "https://*.example.com"),
        ("https://evil.net/.example.com", "https://*.example.com"),
        ("https://*.example.com", "https://*.example.com"),
        ("\N{KELVIN SIGN}://a", "k://a"),
        ("null", "https://app.example.com"),
        ("", "https://app.example.com"),
    ],
)
def test_what_an_entry_does_not_allow(origin, entry):
    assert not allowed(origin, entry)


def test_a_list_is_all_there_is():
    assert not allowed("https://broker.example.org", "https://app.example.com")
    assert not allowed("http://localhost", "https://app.example.com", local=True)
    assert allowed(None, "https://app.example.com")


@pytest.mark.parametrize(
    "entry",
    [
        "example.com",
        "https://",
        "https://example.com/",
        "https://example.com/path",
        "https://example.com:99999",
        "https://*",
        "https://*.",
        "https://*example.com",
        "https://a.*.example.com",
        "https://*.*.example.com",
        "*.example.com",
        "**",
        "null",
        "",
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
    ],
)
def test_an_entry_that_is_no_origin_is_named(entry):
    with pytest.raises(ValueError, match="is no origin") as caught:
        AllowedOrigins(["https://example.com", entry])
    assert repr(entry) in str(caught.value)


# The default.


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "broker.example.org"),
        ("https://broker.example.org", "broker.example.org"),
        ("http://broker.example.org", "Broker.Example.Org"),
        ("https://broker.example.org", "broker.example.org:443"),
        ("https://broker.example.org:443", "broker.example.org"),
        ("http://broker.example.org", "broker.example.org:80"),
        ("http://broker.example.org:8080", "broker.example.org:8080"),
        ("http://[2001:db8::1]:8080", "[2001:DB8::1]:8080"),
        ("http://broker.example.org", "broker.example.org:"),
    ],
)
def test_by_default_a_page_of_the_same_host_and_port_is_allowed(origin, host):
    assert allowed(origin, host=host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://example.org", "broker.example.org"),
        ("https://broker.example.org:8443", "broker.example.org"),
        ("http://broker.example.org", "broker.example.org:443"),
        ("https://broker.example.org", "broker.example.org:80"),
        ("https://broker.example.org.evil.net", "broker.example.org"),
        ("https://broker.example.org", "broker.example.org, evil.net"),
        ("https://broker.example.org", ""),
        ("ftp://broker.example.org", "broker.example.org:21"),
        ("null", "null"),
        ("", ""),
        ("http://localhost", "broker.example.org"),
        (["http://broker.example.org"] * 2, "broker.example.org"),
    ],
)
def test_by_default_others_are_not(origin, host):
    assert not allowed(origin, host=host)


LOCAL = ["http://localhost", "http://LOCALHOST:3000", "https://localhost:5173", "http://127.0.0.1:8000",
         "http://127.1.2.3", "http://[::1]:3000"]  # fmt: skip


@pytest.mark.parametrize("origin", LOCAL)
def test_pages_of_this_machine_are_allowed_while_the_broker_is_local(origin):
    for host in ("localhost:8080", "LocalHost", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080"):
        assert allowed(origin, host=host, local=True)
    assert not allowed(origin, local=False)


@pytest.mark.parametrize(
    "origin",
    ["http://localhost.evil.net", "http://127.0.0.1.evil.net", "http://127.0.0.1.", "http://128.0.0.1",
     "http://[::2]", "http://evil-localhost", "capacitor://localhost", "null"],
)  # fmt: skip
def test_what_only_looks_local_is_not(origin):
    assert not allowed(origin, host="localhost:8080", local=True)


REBOUND = ["evil.example:8080", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.7", "",
           "localhost@evil.example", "evil.example#localhost", "localhost, evil.example", "[::1].evil.example",
           ["localhost", "localhost"], []]  # fmt: skip


@pytest.mark.parametrize("host", REBOUND)
def test_a_local_broker_takes_pages_only_when_they_have_connected_to_this_machine(host):
    named = host if isinstance(host, str) else ""
    for origin in (f"http://{named}", "http://localhost:3000", "http://127.0.0.1"):
        assert not allowed(origin, host=host, local=True)
    assert allowed(None, host=host, local=True), "it is no browser's"
    assert allowed("https://app.example.com", "https://app.example.com", host=host, local=True), "the list decides"


def test_a_trusted_proxy_passes_on_the_name_that_its_clients_know():
    assert allowed("https://chat.example.org", host="chat.example.org", local=True, proxied=True)
    assert not allowed("https://evil.example", host="chat.example.org", local=True, proxied=True)
    assert not allowed("https://chat.example.org", host="chat.example.org", local=True)


# For all.

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
ENTRIES = ["https://app.example.com", "https://*.example.com", "http://localhost:3000", "https://[2001:db8::1]"]


def cased(text):
    """The same in any mixture of capital and small letters."""
    return st.tuples(*(st.sampled_from([each.lower(), each.upper()]) for each in text)).map("".join)


@given(st.text(max_size=40) | st.from_regex(r"https?://[a-z.\-:\[\]@/]{0,30}"), st.text(max_size=20), st.booleans())
def test_no_header_makes_it_raise(origin, host, local):
    allowed(origin, host=host, local=local)
    allowed(origin, *ENTRIES, host=host)
    assert allowed(origin, "*", host=host)


@given(st.data())
def test_neither_scheme_nor_host_has_a_case(data):
    origin = data.draw(cased("https://a.Example.com:8443"))
    assert allowed(origin, "https://*.example.com:8443")
    assert allowed(origin, data.draw(cased("https://a.example.com:8443")))
    assert allowed(origin, host=data.draw(cased("a.example.com:8443")))


@given(NAME, st.none() | st.integers(1, 65535), st.sampled_from(["http", "https"]), st.booleans())
def test_it_agrees_with_urllib(name, port, scheme, is_subdomain):
    host = name + ".example.com" if is_subdomain else name
    origin = f"{scheme}://{host}" + (f":{port}" if port else "")
    parts = urlsplit(origin)
    assert parts.hostname is not None
    usual = (parts.port or {"http": 80, "https": 443}[scheme]) == {"http": 80, "https": 443}[scheme]
    assert allowed(origin, f"{scheme}://*.example.com") == (parts.hostname.endswith(".example.com") and usual)
    assert allowed(origin, f"{scheme}://{name}") == (parts.hostname == name and usual)
    assert allowed(origin, host=parts.netloc)


@given(st.text(max_size=30), st.text(max_size=30))
def test_only_what_ends_in_the_domain_is_of_it(before, after):
    for origin in (f"https://{before}example.com{after}", f"{before}https://a.example.com{after}"):
        if allowed(origin, "https://*.example.com"):
            host = urlsplit(origin).hostname
            assert host is not None and host.endswith(".example.com") and origin.lower().startswith("https://")
