"""Our connections to others follow our settings alone: no proxy, certificate or password of the environment."""

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from chapar.errors import Phrase, SettingInvalid
from chapar.runtime.addresses import is_host, is_loopback

if TYPE_CHECKING:
    import httpx

_SETTING: Final = "CHAPAR_PROXY"

# OpenSSL reads the first two wherever the system's authorities are trusted, Python writes session keys to the third,
# and libpq takes hosts, passwords and certificates from its own.
_FOREIGN: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
_FOREIGN_PREFIX: Final = "PG"


def forget_foreign_settings() -> None:
    """Drop what would configure a connection of ours, or of a child process, past our settings."""
    for name in [name for name in os.environ if name in _FOREIGN or name.startswith(_FOREIGN_PREFIX)]:
        del os.environ[name]


def proxy_for(host: str, proxy: str | None) -> "httpx.Proxy | None":
    """The proxy that `CHAPAR_PROXY` names, None for a host of this machine; raises SettingInvalid."""
    if proxy is None:
        return None

    import httpx  # noqa: PLC0415 - every command imports this module, and the library takes long to load

    try:
        parts = urlsplit(proxy)
        is_usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
        found = httpx.Proxy(proxy) if is_usable else None
    except (ValueError, httpx.InvalidURL):  # whose words may repeat a password
        found = None
    if found is None or not is_host(found.url.raw_host.decode()):
        raise SettingInvalid(_SETTING, Phrase("setting.proxy"))
    return None if is_loopback(host) else found
