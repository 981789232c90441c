"""What the database did not do, and why it is not used."""

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
    en = "The database could not save the message, so it was not sent and never will be: {cause}"
    fa = "پایگاه داده نتوانست پیام را ذخیره کند؛ پیام فرستاده نشد و فرستاده نخواهد شد: {cause}"

    cause: str | Phrase


@dataclass(eq=False)
class OutcomeUnknown(StoreError):
    """The database cannot say whether it committed; the same call with the same key is safe to repeat."""

    code = "outcome_unknown"
    en = (
        "The database did not say in time whether it saved the message, so the message may or may not be sent. "
        "Repeat the call with the same Idempotency-Key."
    )
    fa = (
        "پایگاه داده به‌موقع نگفت که پیام ذخیره شد یا نه؛ شاید فرستاده شود و شاید نه. "
        "درخواست را با همان Idempotency-Key تکرار کنید."
    )


@dataclass(eq=False)
class StoreUnavailable(StoreError):
    """The database cannot be read now."""

    code = "store_unavailable"
    en = "The database cannot be read now: {cause} Try again; `GET /health/ready` says when it is back."
    fa = "پایگاه داده اکنون خوانده نمی‌شود: {cause} دوباره بکوشید؛ `GET /health/ready` بازگشت آن را نشان می‌دهد."

    cause: str | Phrase


@dataclass(eq=False)
class DatabaseUnusable(StoreUnavailable):
    """There is no use in starting: the database cannot be reached, or takes no commit."""

    code = "database_unusable"
    en = (
        "Nothing can be saved in the database: {cause} Check that it is there, that this user may write to it, "
        "and that its disk has room."
    )
    fa = (
        "در پایگاه داده چیزی ذخیره نمی‌شود: {cause} بررسی کنید که در دسترس باشد، این کاربر اجازهٔ نوشتن در آن را "
        "داشته باشد و دیسک آن جا داشته باشد."
    )


@dataclass(eq=False)
class SchemaOutdated(StoreError):
    """The tables do not have the shape this program writes."""

    code = "schema_outdated"
    en = (
        "The database schema is at revision {found}, and this version needs {needed}. "
        "Run `chapar migrate`, or set CHAPAR_AUTO_MIGRATE=true."
    )
    fa = (
        "نسخهٔ ساختار پایگاه داده {found} است و این برنامه {needed} را لازم دارد. "
        "دستور `chapar migrate` را اجرا کنید یا CHAPAR_AUTO_MIGRATE=true بگذارید."
    )

    found: str
    needed: str


@dataclass(eq=False)
class SchemaNewer(StoreError):
    """The tables have a shape that this program does not know."""

    code = "schema_newer"
    en = (
        "The database schema is at revision {found}, and this version knows revisions up to {known}. "
        "A newer Chapar has used this database: install that version again."
    )
    fa = (
        "نسخهٔ ساختار پایگاه داده {found} است و این برنامه تا نسخهٔ {known} را می‌شناسد. "
        "چاپار تازه‌تری با این پایگاه داده کار کرده است: همان نسخه را دوباره نصب کنید."
    )

    found: str
    known: str


@dataclass(eq=False)
class DatabaseInUse(StoreError):
    """Another process serves this SQLite file."""

    code = "database_in_use"
    en = (
        "Another Chapar already serves {path}. SQLite serves one process: stop the other, "
        "choose another file, or use PostgreSQL (CHAPAR_DATABASE_URL)."
    )
    fa = (
        "چاپار دیگری هم‌اکنون با {path} کار می‌کند. SQLite تنها یک فرایند را می‌پذیرد: آن یکی را متوقف کنید، "
        "پروندهٔ دیگری برگزینید یا از PostgreSQL استفاده کنید (CHAPAR_DATABASE_URL)."
    )

    path: str


@dataclass(eq=False)
class DatabaseUnsafe(StoreError):
    """The database breaks a condition that durability rests on; Chapar does not start on it."""

    code = "database_unsafe"
    en = "This database cannot keep what it is told: {problem}"
    fa = "این پایگاه داده نگهدار مطمئنی نیست: {problem}"

    problem: str


@dataclass(eq=False)
class DatabaseFileGone(StoreError):
    """The name of an open SQLite file leads elsewhere or nowhere now, or somebody else wrote into the file."""

    code = "database_file_gone"
    en = (
        "{file} was deleted, moved, replaced or overwritten while the gateway ran, and what is saved there now would "
        "be lost. Move the same file back, and it goes on; else stop the gateway, put the right database in its place "
        "with no `-wal` and `-shm` of another one beside it, and start it again."
    )
    fa = (
        "فایل {file} هنگام کار دروازه پاک، جابه‌جا، جایگزین یا بازنویسی شده است و آنچه اکنون در آن ذخیره شود از دست "
        "می‌رود. همان فایل را به جای خود برگردانید تا کار ادامه یابد؛ وگرنه دروازه را متوقف کنید، پایگاه دادهٔ درست را "
        "بی `-wal` و `-shm` پایگاهی دیگر در کنارش به آنجا ببرید و دروازه را از نو راه بیندازید."
    )

    file: str

    def phrase(self) -> Phrase:
        """The sentence, to stand in another one."""
        return Phrase(self.sentence("en"), self.sentence("fa"))
