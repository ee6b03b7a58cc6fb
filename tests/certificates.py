"""Certificates for tests, made when they run."""

import ssl
from pathlib import Path

import trustme


class Authority:
    """Makes certificates for 127.0.0.1 and localhost, and contexts that trust them."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def write(self, folder: Path) -> dict[str, str]:
        """Write a new certificate and its key into ``folder``; return the broker's options for them."""
        cert = self._ca.issue_cert("127.0.0.1", "localhost")
        cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        cert.private_key_pem.write_to_path(folder / "key.pem")
        return {"tls_cert": str(folder / "cert.pem"), "tls_key": str(folder / "key.pem")}

    def write_ca(self, folder: Path) -> str:
        """Write the certificate that signs the others into ``folder``; return its path."""
        self._ca.cert_pem.write_to_path(folder / "ca.pem")
        return str(folder / "ca.pem")

    def trusting(self) -> ssl.SSLContext:
        """Return a client's context that trusts these certificates and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context
