"""Every kind of operation there is, in the order in which the kinds of one batch are applied and answered."""

from typing import Any, Final

from chapar.store.acceptance import ADD
from chapar.store.api_keys import CHANGE_KEY, CREATE_KEY, KEY_USED
from chapar.store.audit import ADD_ENTRY
from chapar.store.change_log import FORGET_CHANGES
from chapar.store.contacts import CONTACT
from chapar.store.devices import DELETE_DEVICE, PUT_DEVICE
from chapar.store.health import CHECK
from chapar.store.idempotency import ANSWER
from chapar.store.moves import CANCEL, MOVE, RECORD
from chapar.store.operations import Kind
from chapar.store.outages import KEEP_OUTAGE
from chapar.store.pauses import PAUSE_QUEUE, RESUME_QUEUE
from chapar.store.presences import PRESENCE, SIGHTINGS
from chapar.store.purges import PURGE_QUEUE
from chapar.store.queue import ACQUIRE_LEASE, RELEASE_LEASE, SETTLE, TAKE
from chapar.store.receiving import ACQUIRE_RECEIVER, RELEASE_RECEIVER
from chapar.store.replies import RECEIVE
from chapar.store.retained import TAKE_BACK
from chapar.store.retention import PRUNE
from chapar.store.withdrawals import WITHDRAW

# Whoever waits for a pause's row has no other lock yet; who pauses keeps all others from taking, and so comes second.
# What is given back is in the queue before anything is put behind it, and what is added can be taken at once.
KINDS: Final[tuple[Kind[Any, Any], ...]] = (
    RESUME_QUEUE,
    PAUSE_QUEUE,
    RECORD,
    MOVE,
    RECEIVE,
    CANCEL,
    PURGE_QUEUE,
    CONTACT,
    TAKE_BACK,
    ACQUIRE_LEASE,
    SETTLE,
    RELEASE_LEASE,
    ACQUIRE_RECEIVER,
    RELEASE_RECEIVER,
    PRESENCE,
    SIGHTINGS,
    PUT_DEVICE,
    DELETE_DEVICE,
    WITHDRAW,
    ADD,
    CREATE_KEY,
    ANSWER,
    CHANGE_KEY,
    KEY_USED,
    ADD_ENTRY,
    TAKE,
    PRUNE,
    FORGET_CHANGES,
    KEEP_OUTAGE,
    CHECK,
)
