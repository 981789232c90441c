"""Whatever answers where the issuer's key set should be: nothing ends, and the last good set stays."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chapar.access import jwks
from chapar.access.jwks import KeySet
from chapar.errors import SettingInvalid
from chapar.runtime.metrics import Metrics
from chapar.runtime.outbound import proxy_for
from support.issuer import Issuer, jwk_of, new_key
from support.ports import LOOPBACK, free_port
from support.stores import measured

Serve = Callable[[asyncio.StreamWriter], Awaitable[None]]

KEY = new_key("EdDSA")
GOOD = json.dumps({"keys": [jwk_of(KEY, "good", "EdDSA")]}).encode()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def keys(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


def rsa(**members: Any) -> dict[str, Any]:
    return {"kty": "RSA", "kid": "x", "n": "AQAB", "e": "AQAB"} | members


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "an empty object": b"{}",
    "null": b"null",
    "a list": b"[]",
    "a number": b"7",
    "a text": b'"keys"',
    "no keys": b'{"keys":null}',
    "keys of another type": b'{"keys":{"kty":"RSA"}}',
    "an empty list": keys(),
    "nulls": keys(None),
    "lists": keys([[]], []),
    "numbers": keys(1, 1.5),
    "a list as kty": keys({"kty": ["RSA"]}),
    "an object as kty": keys({"kty": {"RSA": 1}}),
    "lists as members": keys(rsa(n=["AQAB"]), rsa(e=[]), rsa(kid=["x"]), rsa(use=["sig"]), rsa(alg=["RS256"])),
    "nulls as members": keys(rsa(n=None), {"kty": "EC", "crv": None, "x": None, "y": None}),
    "no base64": keys(rsa(n="!!!"), rsa(n="é", e="\ud800"), {"kty": "OKP", "crv": "Ed25519", "x": "\0"}),
    "zeros": keys(rsa(n="AA", e="AA"), {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
    "a modulus without end": keys(rsa(n="A" * 900_000)),
    "an exponent without end": keys(rsa(e="_" * 900_000)),
    "a number without end": b'{"keys":[{"kty":"RSA","n":' + b"9" * 900_000 + b"}]}",
    "a curve without a point": keys({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}),
    "an unknown curve": keys({"kty": "OKP", "crv": "X" * 1000, "x": "AA"}),
    "too many keys": keys(*[jwk_of(KEY, f"k{n}", "EdDSA") for n in range(101)]),
    "half a million brackets": b"[" * 500_000,
    "half a million objects": b'{"keys":' * 100_000,
    "nested keys": b'{"keys":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
    "no UTF-8": b'{"keys":"\xff\xfe"}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "more than a mebibyte": b" " * (1 << 20) + GOOD,
    "HTML": b"<html><body>Please log in</body></html>",
}
ANSWERS: dict[str, bytes] = {
    **{what: response(body) for what, body in BODIES.items()},
    "a bomb": response(gzip.compress(b" " * (64 << 20)), "Content-Encoding: gzip"),
    "compressed": response(gzip.compress(GOOD), "Content-Encoding: gzip"),
    "elsewhere": response(GOOD, "Location: http://127.0.0.1:1/", status="302 Found"),
    "nothing modified": response(b"", status="304 Not Modified"),
    "an error": response(GOOD, status="500 Oh No"),
    "cut short": response(GOOD)[:-10],
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status without end": b"HTTP/1.1 2" + b"0" * 200_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
    "a chunk that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "nothing at all": b"",
}


@contextlib.asynccontextmanager
async def issuer_that(serve: Serve) -> AsyncIterator[str]:
    """The URL of somebody who reads a request and does as it likes."""

    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await serve(writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    try:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}/keys"
    finally:
        server.close()
        await asyncio.wait([task for task in answering if task is not None])  # each ends where its caller is gone


async def good(writer: asyncio.StreamWriter) -> None:
    writer.write(response(GOOD))


async def keeps_the_last_set(serve: Serve, monkeypatch: pytest.MonkeyPatch, seconds: float = 5.0) -> None:
    monkeypatch.setattr(jwks, "COOLDOWN", 0)
    serving = good
    metrics = Metrics()

    async def as_set(writer: asyncio.StreamWriter) -> None:
        await serving(writer)

    async with issuer_that(as_set) as url:
        key_set = KeySet(url, metrics)
        await key_set.refresh()
        assert measured(metrics, "chapar_key_set_failures_total") == 0
        serving = serve
        monkeypatch.setattr(jwks, "TIMEOUT", seconds)
        await key_set.refresh()
        assert measured(metrics, "chapar_key_set_failures_total") == 1
        assert await key_set.key("good") is not None


@pytest.mark.parametrize("what", ANSWERS)
async def test_an_answer_that_is_no_key_set_changes_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWERS[what])

    await keeps_the_last_set(serve, monkeypatch)


async def test_an_answer_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def chunks(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"1\r\n \r\n")
            await asyncio.sleep(0.001)

    async def continues(writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.001)

    for serve in (drip, chunks, continues):
        await keeps_the_last_set(serve, monkeypatch, seconds=0.3)


async def test_usable_keys_beside_hostile_ones_are_taken() -> None:
    entries = [None, [], {"kty": ["RSA"]}, rsa(n=7), jwk_of(KEY, "good", "EdDSA") | {"x5c": ["A" * 9000], "ext": {}}]
    assert set(jwks.keys_of(keys(*entries))) == {"good", None}


async def test_a_key_set_is_fetched_past_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine {LOOPBACK} login anna password c4nary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{LOOPBACK}:{free_port()}")
        monkeypatch.setenv(name.lower(), f"http://{LOOPBACK}:{free_port()}")
    with Issuer("EdDSA") as issuer:
        key_set = KeySet(issuer.url, Metrics())
        assert await key_set.key("key-EdDSA") is not None
        assert issuer.authorization is None


def test_only_the_setting_names_a_proxy_and_never_for_this_machine() -> None:
    assert proxy_for("issuer.example.org", None) is None
    assert proxy_for(LOOPBACK, "http://proxy.example:3128") is None
    found = proxy_for("issuer.example.org", "http://anna:c4nary@proxy.example:3128")
    assert found is not None
    assert (found.url.host, found.auth) == ("proxy.example", ("anna", "c4nary"))


@pytest.mark.parametrize(
    "proxy",
    [
        *("proxy.example:3128", "socks5://c4nary@proxy:1", "http://", "http://c4nary@x:0", "http://[c4nary"),
        *("http://c4nary@a..b:3128", f"http://c4nary@{'a' * 64}.example"),
    ],
)
def test_a_proxy_that_is_none_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(SettingInvalid) as error:
        KeySet("https://issuer.example.org/keys", Metrics(), proxy=proxy)
    assert error.value.setting == "CHAPAR_PROXY"
    assert "c4nary" not in error.value.sentence("en") + error.value.sentence("fa")


def test_authorities_that_cannot_be_read_are_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="cannot be read") as error:
        KeySet("https://issuer.example.org/keys", Metrics(), ca_file=tmp_path / "missing.pem")
    assert error.value.setting == "CHAPAR_JWT_CA_FILE"


@pytest.mark.parametrize("url", ["https://issuer.example/a\nb", "https://[x/keys", "https:///keys", "https://x:70000/"])
def test_a_url_that_cannot_be_asked_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(SettingInvalid, match="https"):
        KeySet(url, Metrics())
