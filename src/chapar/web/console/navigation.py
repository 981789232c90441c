"""The pages that the console leads to, in their order; each is shown to whoever may see it."""

from typing import Final, NamedTuple

from chapar.model.principal import Caller, Scope


class Entry(NamedTuple):
    """A page in the navigation."""

    name: str  #: its words are `nav.NAME`
    path: str  #: below the console's
    scope: Scope | None = None  #: needed to see it; None: a caller who is known may


NAVIGATION: Final = (
    Entry("overview", "/overview", Scope.READ),
    Entry("messages", "/messages", Scope.READ),
    Entry("devices", "/devices", Scope.DEVICES_READ),
    Entry("send", "/send", Scope.SEND),
    Entry("import", "/import", Scope.DEVICES_WRITE),
    Entry("audit", "/audit", Scope.AUDIT),
    Entry("keys", "/keys", Scope.KEYS),
    Entry("about", "/about"),
)


def entries_for(caller: Caller) -> list[Entry]:
    """The pages that a caller may see."""
    return [entry for entry in NAVIGATION if entry.scope is None or entry.scope in caller.principal.scopes]
