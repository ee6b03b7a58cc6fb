import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from pystrands.broker.net.tls import Tls
from pystrands.errors import ConfigError


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def files(ca, tmp_path):
    """A certificate and its key, in one file and in two."""
    return written(ca, tmp_path)


def written(ca, folder, name="localhost"):
    cert = ca.issue_cert(name)
    cert.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    cert.private_key_pem.write_to_path(folder / "key.pem")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    return {each.stem: str(each) for each in folder.glob("*.pem")}


def shaken(tls, context):
    """Do a handshake in memory; return the certificate's serial number and the protocol's version."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    unfinished = [client, server]
    for _ in range(10):
        for side in list(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            unfinished.remove(side)
    assert not unfinished
    return client.getpeercert()["serialNumber"], client.version()


def trusting(ca):
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def test_a_certificate_and_its_key_come_from_one_file_or_two(ca, files):
    for tls in (Tls(files["both"]), Tls(files["cert"], files["key"])):
        assert shaken(tls, trusting(ca))[1] == "TLSv1.3"


def test_nothing_older_than_tls_1_2_is_spoken(ca, files):
    context = trusting(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shaken(Tls(files["both"]), context)[1] == "TLSv1.2"
    assert Tls(files["both"]).context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_new_files_count_from_the_next_connection_on(ca, files, tmp_path):
    tls = Tls(files["cert"], files["key"])
    before = shaken(tls, trusting(ca))
    written(ca, tmp_path)
    assert shaken(tls, trusting(ca)) == before
    tls.reload()
    assert shaken(tls, trusting(ca)) != before


def test_files_that_cannot_be_used_leave_what_was_there(ca, files, tmp_path):
    tls = Tls(files["cert"], files["key"])
    before = shaken(tls, trusting(ca))
    (tmp_path / "cert.pem").write_text("half a certif")
    with pytest.raises(ConfigError):
        tls.reload()
    assert shaken(tls, trusting(ca)) == before


def test_with_a_ca_only_peers_with_its_certificates_come_in(ca, files):
    tls = Tls(files["both"], ca=files["ca"])
    context = trusting(ca)
    with pytest.raises(ssl.SSLError):
        shaken(tls, context)
    trustme.CA().issue_cert("backend").configure_cert(context)
    with pytest.raises(ssl.SSLError):
        shaken(tls, context)
    context = trusting(ca)
    ca.issue_cert("backend").configure_cert(context)
    shaken(tls, context)


def test_what_cannot_be_used_is_named(ca, files, tmp_path):
    def problem(*arguments, **more):
        with pytest.raises(ConfigError) as caught:
            Tls(*arguments, **more, prefix="backend_")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    missing, empty = str(tmp_path / "none.pem"), tmp_path / "empty.pem"
    empty.write_text("")
    other = trustme.CA().issue_cert("localhost")
    other.private_key_pem.write_to_path(tmp_path / "other.pem")
    key = serialization.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    assert problem(missing) == f"backend_tls_cert: can't read {missing}: No such file or directory"
    assert problem(files["cert"], missing).startswith("backend_tls_key: can't read ")
    assert problem(files["cert"], files["key"], missing).startswith("backend_tls_ca: can't read ")
    assert problem(str(empty)).startswith(f"backend_tls_cert: can't use {empty}: it is no PEM file")
    assert problem(files["cert"]).startswith(f"backend_tls_cert: can't use {files['cert']}: ")
    assert "key values mismatch" in problem(files["cert"], str(tmp_path / "other.pem"))
    assert problem(files["cert"], str(tmp_path / "locked.pem")).startswith("backend_tls_cert: can't use ")
    assert problem(files["cert"], files["key"], str(empty)).startswith(f"backend_tls_ca: can't use {empty}: ")
