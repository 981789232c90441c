"""Forms with files (multipart/form-data, RFC 7578), as browsers send them."""

import re
from collections.abc import Mapping
from typing import Final

from fastapi import Request

from chapar.web.console.routes import TOKEN, FormExpired, PageRoute, check_token
from chapar.web.http.body import read_body
from chapar.web.http.rates import BodyShare

_FILES: Final = "console.files"
_MULTIPART: Final = "multipart/form-data"
_MOST_FIELDS: Final = 10

_LONGEST_BOUNDARY: Final = 72  # bytes, with the two hyphens in front (RFC 2046 §5.1.1)
_NAME: Final = re.compile(rb'content-disposition:[^\r\n]*;[ \t]*name="([^"\r\n]*)"', re.IGNORECASE)
_END: Final = b"--"


class FileRoute(PageRoute):
    """Takes a form with a file."""

    async def _form(self, request: Request) -> dict[str, str]:
        share: BodyShare = request.scope["body_share"]
        _, body = await read_body(request, {_MULTIPART}, limit=share.largest_bulk, setting="CHAPAR_MAX_BULK_BYTES")
        files = request.scope[_FILES] = fields_of_parts(body, _MOST_FIELDS)
        check_token(request, files.pop(TOKEN, b"").decode(errors="replace"))
        return {}


def files_of(request: Request) -> Mapping[str, bytes]:
    """The fields of the form with a file that was posted, byte for byte."""
    files: Mapping[str, bytes] = request.scope[_FILES]
    return files


def fields_of_parts(body: bytes, most: int) -> dict[str, bytes]:
    """The parts of a body by their names, of each name the last; raises FormExpired for what no browser has sent.

    A browser's body begins with the first boundary, and has no more than `most` parts.
    """
    boundary, line_end, _ = body.partition(b"\r\n")
    if not (line_end and boundary.startswith(_END) and len(boundary) <= _LONGEST_BOUNDARY):
        raise FormExpired
    _, *parts = (line_end + body).split(line_end + boundary, most + 1)
    if len(parts) > most + 1 or parts.pop().strip(b"\r\n") != _END:
        raise FormExpired
    fields: dict[str, bytes] = {}
    for part in parts:
        head, empty_line, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not empty_line or name is None:
            raise FormExpired
        fields[name[1].decode(errors="replace")] = content
    return fields
