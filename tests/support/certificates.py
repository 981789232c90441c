"""A certificate authority for one test, and the files it makes."""

from pathlib import Path

import trustme


class Certificates:
    """PEM files in `folder`: the authority's, a server's for the loopback address, and a client's."""

    def __init__(self, folder: Path, *server_names: str) -> None:
        self._names = server_names or ("127.0.0.1", "localhost")
        self.ca_file = folder / "ca.pem"
        self.server_cert_file, self.server_key_file = folder / "server.pem", folder / "server.key"
        self.client_cert_file, self.client_key_file = folder / "client.pem", folder / "client.key"
        self.renew()

    def renew(self) -> None:
        """Put those of a new authority into the same files, each at once as a good tool does."""
        authority = trustme.CA()
        _replace(self.ca_file, [authority.cert_pem])
        _write(authority.issue_cert(*self._names), self.server_cert_file, self.server_key_file)
        client = authority.issue_cert("client@example.org", common_name="client")
        _write(client, self.client_cert_file, self.client_key_file)


def _write(certificate: trustme.LeafCert, chain: Path, key: Path) -> None:
    _replace(chain, certificate.cert_chain_pems)
    _replace(key, [certificate.private_key_pem])


def _replace(file: Path, blobs: list[trustme.Blob]) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(b"".join(blob.bytes() for blob in blobs))
    new.chmod(0o600)
    new.rename(file)
