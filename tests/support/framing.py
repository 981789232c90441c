"""Requests whose headers say, or seem to say, where their body ends. Each body is a request that must stay a body."""

from typing import Final

SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
NEXT: Final = b"GET /next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
"""What is sent behind each of them on the same connection."""

GOODBYE: Final = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

_LENGTH: Final = f"Content-Length: {len(SMUGGLED)}"
_CHUNKED: Final = "Transfer-Encoding: chunked"
_CHUNKS: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
_SEND: Final = b"POST /messaging/send HTTP/%b\r\nContent-Type: application/json\r\n"
_OFFER: Final = ("Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")


def _request(*headers: str, body: bytes = SMUGGLED, start: str = "POST / HTTP/1.1", host: str = "127.0.0.1") -> bytes:
    return "\r\n".join([start, f"Host: {host}", *headers, "", ""]).encode("latin-1") + body


def _chunked(body: bytes) -> bytes:
    return _request(_CHUNKED, body=body)


FRAMED: Final = {
    "no body": _request(body=b"", start="GET / HTTP/1.1"),
    "no body, by its length": _request("Content-Length: 0", body=b""),
    "a length": _request(_LENGTH),
    "a length, with a method that needs no body": _request(_LENGTH, start="GET / HTTP/1.1"),
    "a length behind a tab and before a space": _request(f"Content-Length:\t{len(SMUGGLED)} "),
    "a length with zeros before it": _request(f"Content-Length: 000{len(SMUGGLED)}"),
    "chunks": _chunked(_CHUNKS),
    "chunks, in capitals": _request("TRANSFER-ENCODING: CHUNKED", body=_CHUNKS),
    "chunks of a byte": _chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in SMUGGLED) + b"0\r\n\r\n"),
    "chunks with extensions": _chunked(
        b'%x;a=b;c="d;\te"\r\n%b\r\n000;last\r\n\r\n' % (len(SMUGGLED), SMUGGLED),
    ),
    "chunks and a trailer": _chunked(b"%x\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    "chunks and the offer of another protocol in a trailer": _chunked(
        b"%x\r\n%b\r\n0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    ),
    "h2c": _request(*_OFFER, "Upgrade: h2c", _LENGTH),
    "h2c behind the length": _request(_LENGTH, *_OFFER, "Upgrade: h2c"),
    "h2c with chunks": _request(*_OFFER, "Upgrade: h2c", _CHUNKED, body=_CHUNKS),
    "h2c without a body": _request(*_OFFER, "Upgrade: h2c", body=b"", start="GET / HTTP/1.1"),
    "a websocket": _request(
        "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", _LENGTH
    ),
    "TLS": _request("Connection: Upgrade", "Upgrade: TLS/1.2, HTTP/1.1", _LENGTH),
    "Connection twice": _request("Connection: keep-alive", "Connection: UPGRADE", "Upgrade: h2c", _LENGTH),
    "Upgrade twice": _request("Connection: upgrade", "Upgrade: websocket", "uPGRADE: h2c", _LENGTH),
    "an empty Upgrade": _request("Connection: upgrade", "Upgrade:", _LENGTH),
    "Upgrade of a proxy": _request("Proxy-Connection: upgrade", "Upgrade: h2c", _LENGTH),
    "Upgrade without Connection": _request("Upgrade: h2c", _LENGTH),
    "Connection without Upgrade": _request("Connection: upgrade", _LENGTH),
    "the settings of HTTP/2 alone": _request("HTTP2-Settings: AAMAAABk", _LENGTH),
    "empty lines before it": b"\r\n\r\n" + _request(_LENGTH),
    "lookalikes": _request(
        "Content_Length: 1", "X-Content-Length: 2", "Transfer_Encoding: chunked", "TE: trailers", "Trailer: X", _LENGTH
    ),
}
"""What stands for itself: its body is read, and then the next request."""

LAST: Final = {
    "Connection: close": _request("Connection: close", _LENGTH),
    "close among others": _request("Connection: keep-alive, close", _LENGTH),
    "close behind h2c": _request("Connection: upgrade, close", "Upgrade: h2c", _LENGTH),
    "close in a trailer": _chunked(b"%x\r\n%b\r\n0\r\nConnection: close\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    "HTTP/1.0": _request(_LENGTH, start="POST / HTTP/1.0"),
    "HTTP/1.0 that would be kept": _request("Connection: keep-alive", _LENGTH, start="POST / HTTP/1.0"),
    "HTTP/1.0 with h2c": _request(*_OFFER, "Upgrade: h2c", _LENGTH, start="POST / HTTP/1.0"),
}
"""What is answered, and is the last request of its connection."""

DOUBTFUL: Final = {
    "length and chunks": _request(_LENGTH, _CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunks and length": _request(_CHUNKED, _LENGTH, body=b"0\r\n\r\n" + SMUGGLED),
    "length and chunks behind h2c": _request(*_OFFER, "Upgrade: h2c", _LENGTH, _CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": _request(_LENGTH, "Content-Length: 0"),
    "twice the same length": _request(_LENGTH, _LENGTH),
    "two lengths behind h2c": _request(*_OFFER, "Upgrade: h2c", _LENGTH, "Content-Length: 0"),
    "a list of lengths": _request(f"{_LENGTH}, {len(SMUGGLED)}"),
    "a signed length": _request("Content-Length: +0"),
    "a negative length": _request("Content-Length: -1"),
    "a hexadecimal length": _request("Content-Length: 0x0"),
    "a length in parts": _request("Content-Length: 0 0"),
    "an empty length": _request("Content-Length:"),
    "a length beyond 64 bits": _request("Content-Length: 18446744073709551616"),
    "a folded length": _request("Content-Length:\r\n 0"),
    "a length with a space before its colon": _request("Content-Length : 0"),
    "a length behind a space": _request("X: y\r\n Content-Length: 0"),
    "a length behind a line feed": _request("X: y\nContent-Length: 0"),
    "a length behind a carriage return": _request("X: y\rContent-Length: 0"),
    "a length behind NUL": _request("Content-Length: \0000"),
    "no colon": _request("Content-Length 0"),
    "gzip, chunked": _request("Transfer-Encoding: gzip, chunked", body=_CHUNKS),
    "chunked, gzip": _request("Transfer-Encoding: chunked, gzip", body=_CHUNKS),
    "chunked, chunked": _request("Transfer-Encoding: chunked, chunked", body=_CHUNKS),
    "chunked, identity": _request("Transfer-Encoding: chunked, identity", body=_CHUNKS),
    "identity": _request("Transfer-Encoding: identity"),
    "identity behind h2c": _request(*_OFFER, "Upgrade: h2c", "Transfer-Encoding: identity"),
    "no coding": _request("Transfer-Encoding:"),
    "a comma only": _request("Transfer-Encoding: ,", body=_CHUNKS),
    "another coding": _request("Transfer-Encoding: xchunked", body=_CHUNKS),
    "a coding in quotes": _request('Transfer-Encoding: "chunked"', body=_CHUNKS),
    "a coding with a parameter": _request("Transfer-Encoding: chunked;q=1", body=_CHUNKS),
    "a coding behind a vertical tab": _request("Transfer-Encoding: \x0bchunked", body=_CHUNKS),
    "a folded coding": _request("Transfer-Encoding:\r\n chunked", body=_CHUNKS),
    "a coding with a space before its colon": _request("Transfer-Encoding : chunked", body=_CHUNKS),
    "two codings": _request(_CHUNKED, _CHUNKED, body=_CHUNKS),
    "identity, then chunked": _request("Transfer-Encoding: identity", _CHUNKED, body=_CHUNKS),
    "chunked, then identity": _request(_CHUNKED, "Transfer-Encoding: identity", body=_CHUNKS),
    "chunks in HTTP/1.0": _request(_CHUNKED, body=_CHUNKS, start="POST / HTTP/1.0"),
    "chunks in HTTP/1.0 behind h2c": _request(*_OFFER, "Upgrade: h2c", _CHUNKED, body=_CHUNKS, start="POST / HTTP/1.0"),
    "HTTP/0.9": _request(_LENGTH, start="POST / HTTP/0.9"),
    "HTTP/2.0": _request(_LENGTH, start="POST / HTTP/2.0"),
    "HTTP/1.2": _request(_LENGTH, start="POST / HTTP/1.2"),
    "a tunnel": _request(_LENGTH, start="CONNECT 127.0.0.1:80 HTTP/1.1"),
    "a tunnel to a path": _request(_LENGTH, start="CONNECT / HTTP/1.1"),
    "lines that end in line feeds": _request(_LENGTH).replace(b"\r\n", b"\n"),
    "a head that ends in a line feed": _request(_LENGTH).replace(b"\r\n\r\n", b"\r\n\n", 1),
    "a chunk's size in hexadecimal notation": _chunked(b"0x0\r\n\r\n" + SMUGGLED),
    "a signed chunk": _chunked(b"+0\r\n\r\n" + SMUGGLED),
    "a chunk with a space behind its size": _chunked(b"0 \r\n\r\n" + SMUGGLED),
    "a chunk without a size": _chunked(b"\r\n\r\n" + SMUGGLED),
    "a chunk beyond 64 bits": _chunked(b"10000000000000000\r\n\r\n" + SMUGGLED),
    "a chunk that ends in a line feed": _chunked(b"0\n\n" + SMUGGLED),
    "a chunk's size behind a line feed": _chunked(b"2;\n\r\n{}\r\n0\r\n\r\n"),
    "a chunk's extension with a line feed": _chunked(b"2;a\nb\r\n{}\r\n0\r\n\r\n"),
    "a chunk's extension in quotes across lines": _chunked(b'0;a="\r\n\r\n"\r\n\r\n' + SMUGGLED),
    "a chunk longer than its size": _chunked(b"1\r\n{}\r\n0\r\n\r\n"),
    "a chunk shorter than its size": _chunked(b"3\r\n{}\r\n0\r\n\r\n"),
    "a length in a trailer": _chunked(b"0\r\n%b\r\n\r\n" % _LENGTH.encode() + SMUGGLED),
    "a coding in a trailer": _chunked(b"0\r\n%b\r\n\r\n" % _CHUNKED.encode() + _CHUNKS),
    "a trailer with a space before its colon": _chunked(b"0\r\nX : y\r\n\r\n"),
    "a folded trailer": _chunked(b"0\r\nX: y\r\n z\r\n\r\n"),
}
"""What two readers may read in two ways: it is answered with a 400, and the connection ends."""


def to_messaging(stream: bytes) -> bytes:
    """The request as one that the gateway reads a body of: what is no command in it is a 400 of another kind."""
    for version in (b"1.1", b"1.0"):
        start = b"POST / HTTP/%b\r\n" % version
        stream = stream.replace(start, _SEND % version, 1)
    return stream
