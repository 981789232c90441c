"""A certificate authority for one test, and the files it makes."""

from pathlib import Path

import trustme


class Certificates:
    """PEM files in `folder`: the authority's, a server's for the loopback address, and a client's."""

    def __init__(self, folder: Path, *server_names: str) -> None:
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        names = server_names or ("127.0.0.1", "localhost")
        self.server_cert_file, self.server_key_file = _write(authority.issue_cert(*names), folder, "server")
        self.client_cert_file, self.client_key_file = _write(
            authority.issue_cert("client@example.org", common_name="client"), folder, "client"
        )


def _write(certificate: trustme.LeafCert, folder: Path, name: str) -> tuple[Path, Path]:
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    certificate.private_key_pem.write_to_path(str(key))
    return chain, key
