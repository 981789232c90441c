"""The version, the settings in force, how to back up, and whose work the pages are made of."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.model.principal import EVERYWHERE, Caller, Scope
from chapar.runtime.settings import ShownSetting
from chapar.web.console.routes import routes
from chapar.web.console.site import Site
from chapar.web.http.entrance import Identity, allow, caller_of

BACKUPS: Final = {
    "sqlite": "chapar backup --force /backups/chapar-$(date +%u).db",
    "postgresql": 'pg_dump --format=custom --file=chapar.dump "$CHAPAR_DATABASE_URL"',
}
"""The command that backs up each kind of database."""

_NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
_LICENCES: Final = Path(__file__).parent / "static"


def about_router(site: Site, shown: Sequence[ShownSetting], database: str) -> APIRouter:
    """The page about a gateway with these settings, and this kind of `database`: `sqlite` or `postgresql`."""
    router = routes()
    licences = {file.stem: file.read_text() for file in sorted(_LICENCES.glob("*.LICENSE"), key=_name)}

    @router.get("/about")
    @allow(Identity.KNOWN)
    async def about(request: Request) -> Response:
        """Show what runs here; the settings only to who may make keys, and reaches every device."""
        return site.page(
            request,
            "about.html",
            python=platform.python_version(),
            database=database,
            database_name=_NAMES[database],
            backup=BACKUPS[database],
            settings=shown if sees_settings(caller_of(request)) else None,
            licences=licences,
        )

    return router


def sees_settings(caller: Caller) -> bool:
    """Return whether a caller may see the settings, which say where everything is."""
    return Scope.KEYS in caller.principal.scopes and caller.principal.reach == EVERYWHERE


def _name(file: Path) -> str:
    return file.name.lower()
