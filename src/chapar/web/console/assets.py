"""Scripts, styles and fonts of the pages: our own files, under an address that changes with them."""

import gzip
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from fastapi import Request, Response

from chapar.errors import PathUnknown
from chapar.web.http.headers import header

_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_PACKED: Final = frozenset({".css", ".js", ".svg"})
_FOR_A_YEAR: Final = "public, max-age=31536000, immutable"


class _Asset(NamedTuple):
    media_type: str
    content: bytes
    packed: bytes | None  #: by gzip; None: it is packed already


class Assets:
    """The files, in memory: together 160 KiB."""

    def __init__(self) -> None:
        self._assets: dict[str, _Asset] = {}
        digest = sha256()
        for file in sorted(_FOLDER.iterdir()):
            if file.suffix in _TYPES:
                content = file.read_bytes()
                digest.update(file.name.encode() + content)
                packed = gzip.compress(content, mtime=0) if file.suffix in _PACKED else None
                self._assets[file.name] = _Asset(_TYPES[file.suffix], content, packed)
        self.version = digest.hexdigest()[:16]  #: of all of them: a style names its fonts by their names alone

    def path(self, name: str) -> str:
        """The path of a file below the console's; raises KeyError for one that is not there."""
        assert self._assets[name]  # noqa: S101 - a template names a file that is there
        return f"/static/{self.version}/{name}"

    def answer(self, request: Request, version: str, name: str) -> Response:
        """The file; raises PathUnknown. A page of another version of the program may ask as well."""
        asset = self._assets.get(name)
        if asset is None:
            raise PathUnknown
        cached = _FOR_A_YEAR if version == self.version else "no-cache"
        headers = {"Cache-Control": cached, "Vary": "Accept-Encoding"}
        content = asset.content
        if asset.packed is not None and "gzip" in (header(request, b"accept-encoding") or ""):
            headers["Content-Encoding"] = "gzip"
            content = asset.packed
        return Response(content, headers=headers, media_type=asset.media_type)
