"""Where NATS is, and what it is shown."""

import os
import pickle
import ssl
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pystrands.engine.nats.credentials import Credentials, tls_context
from pystrands.engine.nats.options import NatsOptions, NatsServer
from pystrands.errors import ConfigError
from tests.certificates import Authority
from tests.nats_server import Key, Operator


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("nats://localhost", NatsServer("localhost", 4222)),
        ("nats://127.0.0.1:4333/", NatsServer("127.0.0.1", 4333)),
        ("tls://[::1]:4333", NatsServer("::1", 4333, is_tls=True)),
        ("nats://t0k@localhost", NatsServer("localhost", user="t0k")),
        ("nats://a%40b%2F%3A%25@h", NatsServer("h", user="a@b/:%")),
        ("nats://u:p%3Aw@h", NatsServer("h", user="u", password="p:w")),
        ("nats://u:@h", NatsServer("h", user="u", password="")),
        ("NATS://H", NatsServer("h")),
    ],
)
def test_urls(url, server):
    assert NatsServer.parse(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:4222",
        "http://localhost",
        "nats:localhost",
        "nats://",
        "nats://:4222",
        "nats://h:x",
        "nats://h:0",
        "nats://h:65536",
        "nats://h:4222/path",
        "nats://h?x=1",
        "nats://h#x",
        "nats://se/cret@h",
        "nats://se?cret@h",
        "nats://[::1",
        "nats://a b",
    ],
)
def test_urls_that_are_none_are_refused_without_being_shown(url):
    with pytest.raises(ConfigError, match=r"^nats_url: .*(write nats://host:4222)") as raised:
        NatsOptions(urls=(url,))
    assert "cret" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"^nats_url: address 2 of 3 "):
        NatsOptions(urls=("nats://localhost", url, "nats://localhost"))


def test_no_server_is_refused():
    with pytest.raises(ConfigError, match="nats_url: no server is named"):
        NatsOptions(urls=())


@given(st.text("[]:@%/.a1?#\\ \tvV\u0130\u2100\u200b", max_size=14))
def test_any_text_is_a_url_or_refused(text):
    for url in (text, f"nats://{text}", f"nats://t@{text}"):
        try:
            (server,) = NatsOptions(urls=(url,)).servers
        except ConfigError:
            continue
        assert NatsServer.parse(str(server)) == NatsServer(server.host, server.port, server.is_tls)


def test_secrets_are_not_shown():
    options = NatsOptions(urls=("nats://t0ken@localhost", "tls://u:passw0rd@localhost"), tls_cert="c", tls_key="k")
    for text in (repr(options), str(options), *map(str, options.servers), *map(repr, options.servers)):
        assert "t0ken" not in text
        assert "passw0rd" not in text
    assert list(map(str, options.servers)) == ["nats://localhost:4222", "tls://localhost:4222"]
    assert pickle.loads(pickle.dumps(options)) == options


@pytest.mark.parametrize("host", ["10.0.0.1", "nats.internal", "0.0.0.0", "[2001:db8::1]", "localhost.evil.example"])
def test_cluster_rule_18_without_credentials_only_loopback_is_taken(host):
    for urls in (
        (f"nats://{host}:4222",),
        ("nats://localhost", f"tls://{host}:4222"),
        (f"tls://t@{host}", f"tls://{host}"),
    ):
        with pytest.raises(ConfigError, match=r"^nats_url: .* is reached from other machines, .*nats-credentials"):
            NatsOptions(urls=urls)
        with pytest.raises(ConfigError, match="is reached from other machines"):
            NatsOptions(urls=urls, tls_ca="ca.pem")  # shows who they are, not who we are
        NatsOptions(urls=urls, credentials="file")
        NatsOptions(urls=urls, tls_cert="cert.pem")
    NatsOptions(urls=(f"nats://token@{host}",))
    NatsOptions(urls=(f"nats://u:p@{host}",))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "LOCALHOST"])
def test_cluster_rule_18_loopback_needs_none(host):
    assert NatsOptions(urls=(f"nats://{host}:4222",)).servers[0].port == 4222


def test_a_key_needs_its_certificate():
    with pytest.raises(ConfigError, match=r"^nats_tls_key: a private key needs its certificate"):
        NatsOptions(urls=("nats://localhost",), tls_key="k")


# --- servers of which another one tells ---


def test_a_server_that_is_told_of_gets_the_same_credentials():
    named = NatsServer.parse("tls://u:p@nats.internal:4222")
    assert named.discovered("10.0.0.2:4333") == NatsServer("10.0.0.2", 4333, True, "u", "p", tls_name="nats.internal")
    assert named.discovered("other.internal:4333") == NatsServer("other.internal", 4333, True, "u", "p")
    assert named.discovered("[2001:db8::1]:4333").host == "2001:db8::1"
    told = named.discovered("10.0.0.2:4333").discovered("10.0.0.3:4333")
    assert told.tls_name == "nats.internal", "also from one to the next"


@pytest.mark.parametrize(
    "address", ["", ":", "x", "0.0.0.0:4222", "[::]:4222", "h:0", "h:99999", "127.0.0.1:1", "a b:1"]
)
def test_addresses_that_can_not_be_are_not_taken(address):
    assert NatsServer.parse("nats://t@nats.internal:4222").discovered(address) is None


def test_a_server_that_is_told_of_needs_credentials_like_others():
    options = NatsOptions(urls=("nats://localhost",))
    (named,) = options.servers
    elsewhere, here = named.discovered("10.0.0.2:4222"), named.discovered("127.0.0.1:4333")
    assert elsewhere
    assert here
    assert (options.may_use(elsewhere), options.may_use(here)) == (False, True)


# --- files ---


def test_a_token_or_a_password_is_shown_as_it_is():
    assert Credentials().shown(NatsServer("h", user="t"), "") == {"auth_token": "t"}
    assert Credentials().shown(NatsServer("h", user="u", password="p"), "") == {"user": "u", "pass": "p"}
    assert Credentials().shown(NatsServer("h"), "") == {}


def test_a_signature_is_that_of_the_seed(tmp_path):
    import nkeys

    key, file = Key(), tmp_path / "seed"
    file.write_text(f"# ours\n{key.seed}\n")
    credentials = Credentials(str(file))
    shown = credentials.shown(NatsServer("h", user="t"), "n0nce")
    assert shown["nkey"] == key.public
    assert shown["auth_token"] == "t"
    import base64

    signature = base64.urlsafe_b64decode(shown["sig"] + "==")
    assert nkeys.from_seed(key.seed.encode()).verify(b"n0nce", signature)
    assert key.seed not in repr(credentials)


def test_a_credentials_file_has_a_jwt_and_its_seed(tmp_path):
    file = tmp_path / "a.creds"
    text = Operator().credentials()
    for written in (text, text.replace("\n", "\r\n")):
        file.write_bytes(written.encode())
        shown = Credentials(str(file)).shown(NatsServer("h"), "n")
        assert shown["jwt"] in text
        assert shown["jwt"].count(".") == 2
        assert set(shown) == {"jwt", "sig"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is neither a .creds file"),
        ("SUnonsense", "is neither"),
        (Operator().credentials().replace("SEED-----\nSU", "SEED-----\n"), "has a seed that is damaged"),
        (Operator().credentials().partition("***")[0], "is neither"),
        (Key("ACCOUNT").seed, "is neither"),
        (
            "-----BEGIN USER NKEY SEED-----\n" + Key("ACCOUNT").seed + "\n------END USER NKEY SEED------",
            "something else than a user",
        ),
    ],
    ids=range(6),
)
def test_what_is_no_credentials_file_is_told_without_being_shown(tmp_path, text, problem):
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"^nats_credentials: .*{problem}") as raised:
        Credentials(str(file))
    assert not any(line and line in str(raised.value) for line in text.splitlines())
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in the file system")
def test_files_that_can_not_be_read_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"^nats_credentials: can't read .*: No such file"):
        Credentials(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^nats_credentials: can't read .*: Is a directory"):
        Credentials(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(ConfigError, match=r"^nats_credentials: can't read .*: it is a pipe"):
        Credentials(str(tmp_path / "pipe"))


def test_a_missing_library_is_told_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "seed").write_text(Key().seed)
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(
        ConfigError, match=r"nats_credentials: needs the library nkeys: pip install 'pystrands\[cluster\]'"
    ):
        Credentials(str(tmp_path / "seed"))


def test_tls_without_files_trusts_what_the_system_trusts():
    context = tls_context(NatsOptions(urls=("tls://localhost",)))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_tls_files_that_can_not_be_used_are_told(tmp_path):
    authority = Authority()
    ca, files = authority.write_ca(tmp_path), authority.write(tmp_path)
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    (tmp_path / "other").mkdir()
    other = Authority().write(tmp_path / "other")

    def context(**options):
        return tls_context(NatsOptions(urls=("tls://localhost",), **options))

    assert context(tls_ca=ca, **files).verify_mode == ssl.CERT_REQUIRED
    none = str(tmp_path / "none")
    for name, options in {
        "nats_tls_ca": {"tls_ca": none},
        "nats_tls_cert": {"tls_cert": none},
        "nats_tls_key": {"tls_cert": files["tls_cert"], "tls_key": none},
    }.items():
        with pytest.raises(ConfigError, match=f"^{name}: can't read {none}: No such file"):
            context(**options)
    with pytest.raises(ConfigError, match=f"^nats_tls_ca: can't use {nonsense}: "):
        context(tls_ca=str(nonsense))
    with pytest.raises(ConfigError, match=f"^nats_tls_cert: can't use {nonsense}: "):
        context(tls_cert=str(nonsense))
    with pytest.raises(ConfigError, match=r"^nats_tls_cert: can't use .* and .*: key values mismatch"):
        context(tls_cert=files["tls_cert"], tls_key=other["tls_key"])
