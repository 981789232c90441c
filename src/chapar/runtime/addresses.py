"""Addresses: a broker's, read from its URL, and the hosts that are this machine.

Each way to write a URL wrong has a sentence of its own.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import unquote

from chapar.errors import Phrase, Problem
from chapar.model.message import has_forbidden_character

EMBEDDED_LARGEST: Final = 262_144  # bytes behind a packet's fixed header, which has four
"""What the built-in broker takes. It does not announce it, and ends the session of whoever sends more."""

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}  # IANA
LARGEST_PORT: Final = 65_535
_LONGEST_FIELD: Final = 65_535  # bytes of a user name or password in CONNECT (MQTT 5.0 §1.5)
_QUOTES: Final = "\"'`“”‘’«»"
_BEGINNING: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")  # RFC 1035 §2.3.4
_MAPPED: Final = "::ffff:"
_LONGEST_NAME: Final = 253  # characters (RFC 1035 §2.3.4)
_WEB_PORTS: Final = {"http": 80, "https": 443}  # IANA
_ENDS_IN_PORT: Final = re.compile(r":[0-9]{1,5}$")
_LOOSE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECOND_URL: Final = re.compile(r"mqtts?://", re.IGNORECASE)

_ROOT_PATH: Final = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*/?")

_WEBSOCKETS: Final = Phrase("broker_url.websockets")
_WEB: Final = Phrase("broker_url.web")
_FOREIGN: Final = {"ws": _WEBSOCKETS, "wss": _WEBSOCKETS, "http": _WEB, "https": _WEB}
_MEANT: Final = {"tcp": "mqtt", "mqtt5": "mqtt", "ssl": "mqtts", "tls": "mqtts", "mqtt+ssl": "mqtts"}


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: an address that cannot point elsewhere, or `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def unmapped(address: str) -> str:
    """The IPv4 address that a socket for both versions shows as an IPv6 one (RFC 4291 §2.5.5.2); others unchanged.

    >>> unmapped("::ffff:10.0.0.1")
    '10.0.0.1'
    """
    return address.removeprefix(_MAPPED) if "." in address else address


def is_host(text: str) -> bool:
    """Return whether a text is an IP address, or a name in ASCII."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= _LONGEST_NAME and _HOST.fullmatch(text) is not None
    return True


def is_host_in_url(text: str) -> bool:
    """Return whether a text is a host as it stands in a URL: an IPv6 address in brackets."""
    in_brackets = text.startswith("[") and text.endswith("]")
    return _ipv6(text[1:-1]) is not None if in_brackets else is_host(text) and ":" not in text


def is_origin(text: str) -> bool:
    """Return whether a text is an origin as a browser writes it: small letters, no port that is the scheme's own.

    >>> is_origin("https://ops.example.org"), is_origin("https://ops.example.org:443"), is_origin("https://*")
    (True, False, False)
    """
    scheme, _, place = text.partition("://")
    host, colon, port = place.rpartition(":") if _ENDS_IN_PORT.search(place) else (place, "", "")
    is_own = bool(colon) and (not 0 < int(port) <= LARGEST_PORT or int(port) == _WEB_PORTS.get(scheme))
    return scheme in _WEB_PORTS and text == text.lower() and is_host_in_url(host) and not is_own


def normal_root_path(text: str) -> str | None:
    """Return a root path as links begin with it, None for what is none: `/chapar` of `/chapar/`, nothing of `/`."""
    return text.rstrip("/") if _ROOT_PATH.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """The address of a broker and how to sign in. Its text form carries no secret.

    >>> str(BrokerAddress.parse("mqtts://gate:secret@broker.example.org"))
    'mqtts://broker.example.org:8883'
    """

    host: str  #: a name in ASCII, or an IP address without brackets
    port: int
    tls: bool = False
    username: str | None = field(default=None, repr=False)  # with some brokers it is an access token
    password: str | None = field(default=None, repr=False)
    max_packet_size: int | None = None  #: bytes; None: what its CONNACK says
    properties: bool = True  #: whether its 3.1.1 subscribers survive PUBLISH properties (the built-in broker's do not)
    outlives_us: bool = (
        True  #: whether it goes on without the gateway, so that it may keep a session for the next start
    )

    @classmethod
    def parse_list(cls, urls: str) -> tuple[Self, ...]:
        """Read URLs that commas separate; raises Problem, which never repeats a part of them."""
        if not urls.strip():
            raise Problem(Phrase("broker_url.empty"))
        items = [item.strip() for item in urls.split(",")]
        if not all(items):
            raise Problem(Phrase("broker_url.no_item"))
        if any(item[0] in _QUOTES or item[-1] in _QUOTES for item in items):
            raise Problem(Phrase("broker_url.quoted"))
        if any(not _BEGINNING.match(item) for item in items[1:]):
            raise Problem(Phrase("broker_url.comma_in_secret"))
        return tuple(map(cls.parse, items))

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `mqtt://user:secret@host:1883` or `mqtts://…`; raises Problem."""
        if has_forbidden_character(url):  # bytes that are not UTF-8 show as surrogates
            raise Problem(Phrase("broker_url.controls"))
        scheme, rest = _scheme(url)
        if _SECOND_URL.search(rest):
            raise Problem(Phrase("broker_url.several"))
        authority, beyond = _split_at(rest, r"[/?#]")
        if "@" in beyond:
            raise Problem(Phrase("broker_url.slash_in_secret"))
        if not authority:
            raise Problem(Phrase("broker_url.no_host"))
        if beyond.strip("/"):
            raise Problem(Phrase("broker_url.beyond"))
        credentials, _, place = authority.rpartition("@")
        username, _, password = credentials.partition(":")
        host, port = _host_and_port(place)
        return cls(
            host=host,
            port=port or _PORTS[scheme],
            tls=scheme == "mqtts",
            username=_decoded(username) or None,
            password=_decoded(password, is_text=False) or None,
        )

    @property
    def certificate_name(self) -> str:
        """The host as certificates name it: without the zone of an IPv6 address, and the dot that ends a full name."""
        return self.host.partition("%")[0].removesuffix(".")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def _scheme(url: str) -> tuple[str, str]:
    """`mqtt` or `mqtts`, and what stands behind `://`; raises Problem."""
    beginning = _BEGINNING.match(url)
    if beginning is None:
        raise Problem(Phrase("broker_url.no_scheme"))
    scheme = beginning["scheme"].lower()
    if scheme in _PORTS:
        return scheme, url[beginning.end() :]
    if scheme in _MEANT:
        raise Problem(Phrase("broker_url.alias", wrong=scheme, right=_MEANT[scheme]))
    raise Problem(_FOREIGN.get(scheme, Phrase("broker_url.other_scheme")))


def _split_at(text: str, pattern: str) -> tuple[str, str]:
    found = re.search(pattern, text)
    return (text, "") if found is None else (text[: found.start()], text[found.start() :])


def _decoded(text: str, *, is_text: bool = True) -> str:
    """A user name or password without its percent-encoding; raises Problem."""
    if "[" in text or "]" in text:
        raise Problem(Phrase("broker_url.bracket_in_secret"))
    if _LOOSE_PERCENT.search(text):
        raise Problem(Phrase("broker_url.percent_in_secret"))
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Problem(Phrase("broker_url.encoding_in_secret")) from None
    if is_text and has_forbidden_character(decoded):  # a password is bytes to MQTT, which may be any
        raise Problem(Phrase("broker_url.control_in_user"))
    if len(decoded.encode()) > _LONGEST_FIELD:
        raise Problem(Phrase("broker_url.long_field"))
    return decoded


def _host_and_port(place: str) -> tuple[str, int | None]:
    """The host in ASCII, and the port where one is written; raises Problem."""
    if re.search(r"\s", place):
        raise Problem(Phrase("broker_url.space"))
    if place.startswith("["):
        address, bracket, behind = place[1:].partition("]")
        host = _ipv6(unquote(address))
        if host is None or not bracket or (behind and not behind.startswith(":")):
            raise Problem(Phrase("broker_url.not_ipv6"))
        return host, _port(behind[1:])
    if place.count(":") > 1:
        is_ipv6 = _ipv6(place) or _ipv6(place.rpartition(":")[0])
        raise Problem(Phrase("broker_url.bare_ipv6") if is_ipv6 else Phrase("broker_url.colons"))
    name, _, port = place.partition(":")
    if not name:
        raise Problem(Phrase("broker_url.no_host"))
    number = _port(port)
    return _host(name), number


def _port(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > len(str(LARGEST_PORT)) or not 1 <= int(text) <= LARGEST_PORT:
        raise Problem(Phrase("broker_url.port"))
    return int(text)


def _host(name: str) -> str:
    try:
        host = name.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise Problem(Phrase("broker_url.bad_host")) from None
    if not _HOST.fullmatch(host):
        raise Problem(Phrase("broker_url.bad_host"))
    return host


def _ipv6(text: str) -> str | None:
    """An IPv6 address as it is usually written, its zone included; None where it is none."""
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return None
