"""Every error Chapar raises on purpose, each with its code and facts; its sentences are in `en.toml` and `fa.toml`.

ChaparError
├── SettingInvalid           a setting has a value that cannot work
├── ConfigurationInvalid     a file with settings cannot be read
├── PortTaken                a port that must be listened on is in use
├── WorkerFailed             a worker ended before it served
├── UsageInvalid             the command was not written as it must be
├── OutputLost               what a command printed could not be written
├── GatewayError             the command line did not get from a gateway what it asked for
│   ├── GatewayUnreachable   … nothing answers there, and nothing was asked
│   ├── GatewayUntrusted     … its certificate is not trusted, and nothing was asked
│   ├── GatewayLost          … it was asked, and its answer did not come
│   ├── GatewayRefused       … it answered with a problem of its own
│   └── NotAGateway          … what answers there is none
├── RequestError             the request itself is at fault: nothing stored, nothing sent
│   ├── HeadMalformed        … it is not HTTP/1.1
│   ├── HeadTooLarge         … its head is larger than the limit
│   ├── HeadersTooMany       … it has more headers than the limit
│   ├── TargetTooLong        … its path and query are longer than the limit
│   ├── HeadTooSlow          … its head did not arrive in time
│   ├── PathUnknown          … nothing is at its path
│   ├── MethodNotAllowed     … its path does not take its method
│   ├── HostNotAllowed       … it is meant for another host
│   ├── OriginNotAllowed     … a page of another site sent it
│   ├── FieldInvalid         … a field breaks a rule
│   │   └── ParamsInvalid      … a parameter breaks a rule of the catalog
│   ├── BodyMalformed        … the body is not JSON in UTF-8
│   ├── RowMalformed         … a row of the body is not CSV in UTF-8
│   ├── TableMalformed       … a file is no table that can be imported
│   ├── BodyTooLarge         … the body is larger than the limit
│   ├── BodiesExhausted      … bodies of other requests take all the memory there is for them
│   ├── BodyTooSlow          … the body did not arrive in time
│   ├── BodyTooDeep          … its JSON is nested deeper than the limit
│   └── MediaTypeUnsupported … the body is sent as no media type that is taken
├── AccessError              the caller may not do this: nothing stored, nothing sent
│   ├── Unauthenticated      … it did not say who it is
│   │   └── CredentialInvalid  … what it sent does not prove who it is
│   ├── ScopeMissing         … its key or token lacks the scope
│   ├── OutOfReach           … the device or the operation is none of its own
│   ├── GrantTooWide         … it would give away more than it has
│   └── AccessUnavailable    … whether it may cannot be found out now
├── RateLimited              the caller asked too often: nothing stored, nothing sent
├── MessageNotFound          no message has this id
├── DeviceNotFound           no device with this id is registered
├── OperationNotFound        the catalog describes no operation of this name
├── DevicesExhausted         as many devices are registered as may be
├── DevicePaused             the device is not forgotten while its queue is paused
├── PauseUnconfirmed         a queue is paused, and another process may not know of it yet
├── EventsGone               what followed a place among the events is not kept any more
├── ListenersExhausted       as many listeners to events are connected as may be
├── ApiKeyNotFound           no API key has this id
├── NotCancellable           the message is past the states in which it can be withdrawn
├── NotRepeatable            the message only takes a retained one back
├── QueueFull                a bound of the queue is reached: nothing stored, nothing sent
├── KeyMismatch              an idempotency key was used for another request
├── KeyInFlight              the first request with this idempotency key has not been answered
├── KeyNotTaken              no idempotency key is taken here
├── SpreadsheetNotMade       a spreadsheet cannot be made now
├── TableNotRead             the process that reads a table to import cannot be started
├── ConnectionsExhausted     as many connections are open as may be
├── NotSent                  the message was not sent and never will be
│   ├── BrokerUnreachable    … the broker could not be reached
│   ├── DeviceOffline        … it was for a device that is online, and that was offline
│   ├── PresenceUnknown      … likewise, and whether it was there was not known
│   ├── DeviceBusy           … likewise, and something else of it had to leave first
│   ├── QueuePaused          … likewise, and its queue was paused
│   ├── BrokerRefused        … the broker said no, with an MQTT 5 reason code
│   ├── Quarantined          … it was in flight whenever the broker ended the session
│   ├── DeliveryFaulty       … a fault of ours stopped it
│   ├── MessageExpired       … its time ran out
│   ├── MessageCancelled     … it was withdrawn
│   ├── MessageSuperseded    … a newer message with its collapse key took its place
│   └── MessagePurged        … it was withdrawn with all that waited for its device
├── StoreError
│   ├── NotSaved             nothing was committed
│   ├── OutcomeUnknown       the database cannot say whether it committed
│   ├── StoreUnavailable     the database cannot be read now
│   │   └── DatabaseUnusable … and there is no use in starting on it
│   ├── SchemaOutdated       the tables are older than this program
│   ├── SchemaNewer          the tables are newer than this program
│   ├── DatabaseInUse        another process serves this SQLite file
│   ├── BackupFailed         no backup was made
│   ├── RestoreFailed        no backup was restored
│   ├── DatabaseFileGone     the SQLite file is not the one any more that was opened
│   └── DatabaseUnsafe       the database breaks a condition that durability rests on
└── LinkError
    ├── LinkDown             there is no session, and nothing was sent
    ├── LinkLost             the session ended between PUBLISH and its acknowledgement
    ├── PublicationInvalid   the broker's announced limits forbid it, so it was not tried
    ├── PublicationExpired   its time ran out before a byte of it left
    ├── TakenBack            its owner took it back before a byte of it left
    ├── SessionTakenOver     another client has connected with our client id
    ├── EmbeddedBrokerFailed the built-in broker does not start
    └── BrokerError          why no session could be had (each a sentence for the log)
        ├── HostNotFound
        ├── NoAnswer
        ├── ConnectionFailed
        ├── TlsFailed
        ├── TlsFilesUnusable
        ├── ConnectionRefused
        ├── ProtocolUnsupported
        ├── BrokerSilent
        ├── BrokerUnanswered
        ├── BrokerClosed
        ├── SubscriptionRefused
        ├── UnsubscriptionRefused
        ├── BrokerMute
        ├── PublicationRefused
        ├── ReleaseRefused
        └── MalformedPacket

Only `web/http/problems.py` turns these into HTTP answers; only `cli/` turns them into exit codes.
"""

from chapar.errors.access import (
    AccessError,
    AccessUnavailable,
    ApiKeyNotFound,
    CredentialInvalid,
    GrantTooWide,
    OutOfReach,
    RateLimited,
    ScopeMissing,
    Unauthenticated,
)
from chapar.errors.command_line import (
    GatewayError,
    GatewayLost,
    GatewayRefused,
    GatewayUnreachable,
    GatewayUntrusted,
    NotAGateway,
    OutputLost,
    UsageInvalid,
)
from chapar.errors.delivery import (
    BrokerRefused,
    BrokerUnreachable,
    DeliveryFaulty,
    DeviceBusy,
    DeviceOffline,
    MessageCancelled,
    MessageExpired,
    MessagePurged,
    MessageSuperseded,
    NotSent,
    PresenceUnknown,
    Quarantined,
    QueuePaused,
)
from chapar.errors.link import (
    BrokerClosed,
    BrokerError,
    BrokerMute,
    BrokerSilent,
    BrokerUnanswered,
    BrokerWords,
    ConnectionFailed,
    ConnectionRefused,
    EmbeddedBrokerFailed,
    HostNotFound,
    LinkDown,
    LinkError,
    LinkLost,
    MalformedPacket,
    NoAnswer,
    ProtocolUnsupported,
    PublicationExpired,
    PublicationInvalid,
    PublicationRefused,
    ReleaseRefused,
    SessionTakenOver,
    SubscriptionRefused,
    TakenBack,
    TlsFailed,
    TlsFilesUnusable,
    UnsubscriptionRefused,
)
from chapar.errors.persian import ascii_digits, ascii_number, gregorian, persian_date, persian_digits
from chapar.errors.request import (
    BodiesExhausted,
    BodyMalformed,
    BodyTooDeep,
    BodyTooLarge,
    BodyTooSlow,
    ConnectionsExhausted,
    DeviceNotFound,
    DevicePaused,
    DevicesExhausted,
    EventsGone,
    FieldInvalid,
    HeadersTooMany,
    HeadMalformed,
    HeadTooLarge,
    HeadTooSlow,
    HostNotAllowed,
    KeyInFlight,
    KeyMismatch,
    KeyNotTaken,
    ListenersExhausted,
    MediaTypeUnsupported,
    MessageNotFound,
    MethodNotAllowed,
    NotCancellable,
    NotRepeatable,
    OperationNotFound,
    OriginNotAllowed,
    ParamsInvalid,
    PathUnknown,
    PauseUnconfirmed,
    QueueFull,
    RequestError,
    RowMalformed,
    SpreadsheetNotMade,
    TableMalformed,
    TableNotRead,
    TargetTooLong,
)
from chapar.errors.root import CATALOGS, Catalogs, ChaparError, Language, Phrase, Text, joined
from chapar.errors.rules import rule_of
from chapar.errors.starting import (
    ConfigurationInvalid,
    PortTaken,
    Problem,
    SettingInvalid,
    WorkerFailed,
)
from chapar.errors.store import (
    BackupFailed,
    DatabaseFileGone,
    DatabaseInUse,
    DatabaseUnsafe,
    DatabaseUnusable,
    NotSaved,
    OutcomeUnknown,
    RestoreFailed,
    SchemaNewer,
    SchemaOutdated,
    StoreError,
    StoreUnavailable,
)
from chapar.errors.tls import TlsFault, TlsProblem

__all__ = [
    "CATALOGS",
    "AccessError",
    "AccessUnavailable",
    "ApiKeyNotFound",
    "BackupFailed",
    "BodiesExhausted",
    "BodyMalformed",
    "BodyTooDeep",
    "BodyTooLarge",
    "BodyTooSlow",
    "BrokerClosed",
    "BrokerError",
    "BrokerMute",
    "BrokerRefused",
    "BrokerSilent",
    "BrokerUnanswered",
    "BrokerUnreachable",
    "BrokerWords",
    "Catalogs",
    "ChaparError",
    "ConfigurationInvalid",
    "ConnectionFailed",
    "ConnectionRefused",
    "ConnectionsExhausted",
    "CredentialInvalid",
    "DatabaseFileGone",
    "DatabaseInUse",
    "DatabaseUnsafe",
    "DatabaseUnusable",
    "DeliveryFaulty",
    "DeviceBusy",
    "DeviceNotFound",
    "DeviceOffline",
    "DevicePaused",
    "DevicesExhausted",
    "EmbeddedBrokerFailed",
    "EventsGone",
    "FieldInvalid",
    "GatewayError",
    "GatewayLost",
    "GatewayRefused",
    "GatewayUnreachable",
    "GatewayUntrusted",
    "GrantTooWide",
    "HeadMalformed",
    "HeadTooLarge",
    "HeadTooSlow",
    "HeadersTooMany",
    "HostNotAllowed",
    "HostNotFound",
    "KeyInFlight",
    "KeyMismatch",
    "KeyNotTaken",
    "Language",
    "LinkDown",
    "LinkError",
    "LinkLost",
    "ListenersExhausted",
    "MalformedPacket",
    "MediaTypeUnsupported",
    "MessageCancelled",
    "MessageExpired",
    "MessageNotFound",
    "MessagePurged",
    "MessageSuperseded",
    "MethodNotAllowed",
    "NoAnswer",
    "NotAGateway",
    "NotCancellable",
    "NotRepeatable",
    "NotSaved",
    "NotSent",
    "OperationNotFound",
    "OriginNotAllowed",
    "OutOfReach",
    "OutcomeUnknown",
    "OutputLost",
    "ParamsInvalid",
    "PathUnknown",
    "PauseUnconfirmed",
    "Phrase",
    "PortTaken",
    "PresenceUnknown",
    "Problem",
    "ProtocolUnsupported",
    "PublicationExpired",
    "PublicationInvalid",
    "PublicationRefused",
    "Quarantined",
    "QueueFull",
    "QueuePaused",
    "RateLimited",
    "ReleaseRefused",
    "RequestError",
    "RestoreFailed",
    "RowMalformed",
    "SchemaNewer",
    "SchemaOutdated",
    "ScopeMissing",
    "SessionTakenOver",
    "SettingInvalid",
    "SpreadsheetNotMade",
    "StoreError",
    "StoreUnavailable",
    "SubscriptionRefused",
    "TableMalformed",
    "TableNotRead",
    "TakenBack",
    "TargetTooLong",
    "Text",
    "TlsFailed",
    "TlsFault",
    "TlsFilesUnusable",
    "TlsProblem",
    "Unauthenticated",
    "UnsubscriptionRefused",
    "UsageInvalid",
    "WorkerFailed",
    "ascii_digits",
    "ascii_number",
    "gregorian",
    "joined",
    "persian_date",
    "persian_digits",
    "rule_of",
]
