"""Below which path a caller knows the gateway."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from chapar.errors import SettingInvalid
from chapar.runtime.settings import Settings
from chapar.web.http.proxies import behind_proxies, root_path_of

PROXY, STRANGER = "10.0.0.1", "192.0.2.7"


async def asked(
    path: str, *prefixes: str, client: str = PROXY, trusted: str | None = PROXY, root_path: str = ""
) -> tuple[str, str, str]:
    """The path, the root path and the caller's address, as the application sees them."""
    seen = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append((scope["path"], root_path_of(scope), scope["client"][0]))

    nothing: Any = None
    headers = [(b"x-forwarded-prefix", prefix.encode("latin-1")) for prefix in prefixes]
    headers.append((b"x-forwarded-for", STRANGER.encode()))
    scope = {"type": "http", "path": path, "client": (client, 1234), "headers": headers, "scheme": "http"}
    await behind_proxies(app, trusted=trusted, root_path=root_path)(scope, nothing, nothing)
    [found] = seen
    return found


@pytest.mark.parametrize("prefix", ["/chapar", "/chapar/"])
async def test_a_trusted_proxy_says_the_prefix_that_it_has_taken_off(prefix: str) -> None:
    assert await asked("/docs", prefix) == ("/docs", "/chapar", STRANGER)


@pytest.mark.parametrize("prefix", ["/x", "/messaging", "/"])
@pytest.mark.parametrize("root_path", ["", "/chapar"])
async def test_no_header_changes_which_route_is_meant(prefix: str, root_path: str) -> None:
    for path in ("/x/keys", "/messaging/send"):
        assert (await asked(path, prefix, root_path=root_path))[0] == path


@pytest.mark.parametrize("path", ["/docs", "/a/b.c/docs"])
@pytest.mark.parametrize("trusted", [None, PROXY])
async def test_the_setting_says_it_too(path: str, trusted: str | None) -> None:
    found = await asked(path, trusted=trusted, root_path="/a/b.c")
    assert found[:2] == ("/docs", "/a/b.c")


async def test_the_proxy_knows_better_than_the_setting() -> None:
    assert (await asked("/docs", "/new", root_path="/old"))[:2] == ("/docs", "/new")
    assert (await asked("/old/docs", "/new", root_path="/old"))[:2] == ("/docs", "/new")
    assert (await asked("/docs", "/", root_path="/old"))[:2] == ("/docs", "")


@pytest.mark.parametrize("trusted", [None, "10.0.0.2"])
async def test_nobody_else_is_believed(trusted: str | None) -> None:
    assert await asked("/evil/docs", "/evil", trusted=trusted) == ("/evil/docs", "", PROXY)


@pytest.mark.parametrize(
    "prefixes",
    [
        ("//evil.example",),
        ("/a//b",),
        ("/../a",),
        ("/a/..",),
        ("/.",),
        ("chapar",),
        ("https://evil.example",),
        ("/a b",),
        ("/a?b",),
        ("/a%2Fb",),
        ("/é",),
        ("/a\r\nX: y",),
        ("/a", "/b"),
        ("/a, /b",),
    ],
)
async def test_what_is_no_path_is_no_prefix(prefixes: tuple[str, ...]) -> None:
    assert (await asked("/docs", *prefixes))[:2] == ("/docs", "")


@pytest.mark.parametrize("path", ["/chaparral", "/chaparral/docs", "/x/chapar/docs"])
async def test_another_path_is_left_as_it_is(path: str) -> None:
    assert (await asked(path, root_path="/chapar"))[:2] == (path, "/chapar")


@pytest.mark.parametrize("path", ["/chapar", "/chapar/"])
async def test_the_path_of_the_setting_alone_is_the_root(path: str) -> None:
    assert (await asked(path, root_path="/chapar"))[0] == "/"


def test_without_a_proxy_nothing_stands_in_the_way() -> None:
    app: Any = object()
    assert behind_proxies(app, trusted=None, root_path="") is app


def test_the_setting_is_read_as_links_begin() -> None:
    assert [Settings.load(root_path=given).root_path for given in ("", "/", "/chapar", "/a/b/")] == [
        "",
        "",
        "/chapar",
        "/a/b",
    ]
    for wrong in ("chapar", "//a", "https://example.org/chapar", "/a b", "/چاپار"):
        with pytest.raises(SettingInvalid, match="CHAPAR_ROOT_PATH cannot be used: write it"):
            Settings.load(root_path=wrong)
