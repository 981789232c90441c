"""Errors of the database: what it did not do, and why it is not used."""

from dataclasses import dataclass

from chapar.errors.root import ChaparError, Phrase


@dataclass(eq=False)
class StoreError(ChaparError):
    """The database did not do what was asked."""

    code = "store_error"


@dataclass(eq=False)
class NotSaved(StoreError):
    """The database could not commit within the time allowed; certainly nothing was stored."""

    code = "not_saved"

    cause: Phrase | ChaparError | str


@dataclass(eq=False)
class OutcomeUnknown(StoreError):
    """The database cannot say whether it committed; the same call with the same key is safe to repeat."""

    code = "outcome_unknown"


@dataclass(eq=False)
class StoreUnavailable(StoreError):
    """The database cannot be read now."""

    code = "store_unavailable"

    cause: Phrase | ChaparError | str

    @property
    def again(self) -> Phrase | str:
        """Advice to wait, where waiting helps."""
        return "" if isinstance(self.cause, DatabaseFileGone) else Phrase("part.again")


@dataclass(eq=False)
class DatabaseUnusable(StoreUnavailable):
    """There is no use in starting: the database cannot be reached, or takes no commit."""

    code = "database_unusable"


@dataclass(eq=False)
class SchemaOutdated(StoreError):
    """The tables do not have the shape this program writes."""

    code = "schema_outdated"

    found: str
    needed: str


@dataclass(eq=False)
class SchemaNewer(StoreError):
    """The tables have a shape that this program does not know."""

    code = "schema_newer"

    found: str
    known: str


@dataclass(eq=False)
class DatabaseInUse(StoreError):
    """Another process serves this SQLite file."""

    code = "database_in_use"

    path: str


@dataclass(eq=False)
class DatabaseUnsafe(StoreError):
    """The database breaks a condition that durability rests on; Chapar does not start on it."""

    code = "database_unsafe"

    problem: Phrase


@dataclass(eq=False)
class DatabaseFileGone(StoreError):
    """The name of an open SQLite file leads elsewhere or nowhere now, or somebody else wrote into the file."""

    code = "database_file_gone"

    file: str


@dataclass(eq=False)
class BackupFailed(StoreError):
    """No backup was made; a file that was there is as it was."""

    code = "backup_failed"

    problem: Phrase


@dataclass(eq=False)
class RestoreFailed(StoreError):
    """No backup was restored; the database is as it was."""

    code = "restore_failed"

    problem: Phrase
