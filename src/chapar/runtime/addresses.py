"""Names and IP addresses of hosts."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: an address that cannot point elsewhere, or `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
