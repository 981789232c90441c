"""The audit trail, who did what, as far as its reader may see it."""

from chapar.model.audit import AuditFilters, AuditPage
from chapar.model.principal import Caller
from chapar.store.audit import Trail


class AuditTrail:
    """The audit trail, narrowed to what the caller reaches."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    async def page(self, caller: Caller, filters: AuditFilters, *, before: int | None, limit: int) -> AuditPage:
        """A page of at most `limit` entries below the number `before`, newest first; raises StoreUnavailable."""
        within = filters._replace(reach=caller.principal.reach)
        return await self._trail.page(within, before=before, limit=limit)
