"""Every option of the gateway: its default, its unit, and why that default.

Each is an environment variable with the prefix `CHAPAR_`; `chapar serve` takes the most used ones as options too. A
secret may come from a file instead (`secret_files.py`).
"""

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chapar.errors import Language, Phrase, Problem, SettingInvalid, ascii_number, rule_of
from chapar.model.message import LONGEST_WAIT, Profile, check_topic_template
from chapar.runtime.addresses import (
    EMBEDDED_LARGEST,
    BrokerAddress,
    is_host,
    is_host_in_url,
    is_origin,
    normal_root_path,
)
from chapar.runtime.secret_files import Secret, SecretFiles, secrets_of

_LONGEST_EXPIRY = 2**32 - 1  # seconds; what a PUBLISH can say (MQTT 5.0 §3.3.2.3.3)
_NUMBERS = {int, float, float | None}
_LARGEST_COUNT = 2**31 - 1

# As SQLAlchemy reads it: a password may hold everything but `@`.
_DATABASE_URL = re.compile(r"(?P<scheme>[a-z0-9+]+)://(?:[^:/]*(?::[^@]*)?@)?(?P<place>[^?]*)", re.DOTALL)

_SECRET_IN_URL = re.compile(r"(?<=://)[^/?#]*@|(?<=\?).+", re.DOTALL)

TopicTemplate = Annotated[str, AfterValidator(check_topic_template)]


class ShownSetting(NamedTuple):
    """A setting in force, as people may see it."""

    variable: str
    value: str | None  #: None: it has none, or is a secret
    is_secret: bool
    is_set: bool  #: else the value is the default


class Listening(BaseSettings):
    """The settings that say where the gateway is, which its callers on this machine read too."""

    model_config = SettingsConfigDict(
        env_prefix="CHAPAR_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    host: str = Field(
        "127.0.0.1", description="Address the API listens on. Loopback, because access is open by default."
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port of the API; 0 takes a free one.")

    tls_cert_file: Path | None = Field(
        None,
        description="Certificate of the API, with its chain (PEM): it then speaks HTTPS. Unset: plain HTTP. "
        "Renewed files are taken within seconds.",
    )

    @classmethod
    def load(cls, **overrides: str | int | None) -> Self:
        """Read the environment; `overrides` that are not None win. Raises SettingInvalid naming the bad setting."""
        try:
            return cls.model_validate({name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = "CHAPAR_" + str(first["loc"][0]).upper() if first["loc"] else "The settings"
            fault = first.get("ctx", {}).get("error")
            broken = Phrase("setting.rule", rule=rule_of(first["type"], first.get("ctx", {}), first["msg"]))
            problem = fault.phrase if isinstance(fault, Problem) else broken
            raise SettingInvalid(name, problem) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look at what is given directly, then at files with secrets, then at the environment."""
        del dotenv_settings, file_secret_settings
        return init_settings, SecretFiles(settings_cls), env_settings

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_have_any_digits(cls, value: object, info: ValidationInfo) -> object:
        is_number = cls.model_fields[str(info.field_name)].annotation in _NUMBERS
        return ascii_number(value) if is_number and isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def _host_is_one(cls, value: str) -> str:
        if not is_host(value):
            raise Problem(Phrase("setting.host"))
        return value

    @property
    def url(self) -> str | None:
        """The gateway as a caller on this machine finds it; None where only its banner knows the port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - it is replaced
        scheme = "http" if self.tls_cert_file is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}" if self.port else None


class Settings(Listening):
    """The gateway's options. Build it with `Settings.load()`, which turns a bad value into one sentence."""

    tls_key_file: Path | None = Field(None, description="Key of that certificate (PEM). Unset: it is in the same file.")

    database_url: Secret = Field(
        SecretStr("sqlite:///chapar.db"),
        description="`sqlite:///file` or `postgresql://user:secret@host/name`. SQLite needs no set-up.",
    )
    auto_migrate: bool = Field(
        default=False,
        description="Migrate PostgreSQL at start too. Off, because several hosts may share it. SQLite always does.",
    )
    readers: int = Field(
        4, ge=1, le=64, description="Read-only database connections for what is found at once: single messages, keys."
    )
    report_readers: int = Field(
        2,
        ge=1,
        le=64,
        description="Read-only database connections for reports, lists, counts and the audit trail, which may take "
        "seconds; each of their pages waits for a free one. They keep no key check waiting.",
    )

    broker_url: Secret | None = Field(
        None,
        description="`mqtt://…` or `mqtts://…`; several, comma-separated, are tried in turn. "
        "Unset: the built-in broker.",
    )
    broker_ca_file: Path | None = Field(None, description="CA certificates for mqtts. Unset: the system's.")
    broker_cert_file: Path | None = Field(None, description="Client certificate for mqtts, with its chain (PEM).")
    broker_key_file: Path | None = Field(None, description="Key of the client certificate (PEM).")
    broker_server_name: str | None = Field(None, description="Name to expect in the broker's certificate.")
    connect_timeout: float = Field(
        5.0,
        gt=0,
        le=300,
        description="Seconds for each step of connecting to the broker: its name, TCP, TLS, CONNECT. "
        "A broker that is alive answers in milliseconds, over a satellite in two seconds.",
    )
    keep_alive: int = Field(
        10,
        ge=1,
        le=65535,
        description="Seconds of MQTT keep-alive; a dead connection is found within 1.5 times this, or of what the "
        "broker asks for where that is less. Short, because the broker is near.",
    )
    acknowledge_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds after which the session ends with a broker that is alive and leaves a message unanswered; "
        "its place would be taken for ever. Longer than a broker's slowest disk.",
    )
    embedded_port: int = Field(
        1883,
        ge=1,
        le=65534,
        description="Port of the built-in broker for MQTT 3.1.1 devices; the next port speaks MQTT 5. Loopback only.",
    )

    command_topic: TopicTemplate = Field("devices/{imei}", description="Topic a device listens on.")
    reply_topic: TopicTemplate = Field("devices/{imei}/reply", description="Topic on which a device replies.")
    presence_topic: TopicTemplate = Field(
        "devices/{imei}/presence", description="Topic on which a device announces `online`, and its will `offline`."
    )
    default_profile: Profile = Field(
        Profile.TEXT,
        description="Form in which a device without a profile of its own takes commands: `text`, the operation's name "
        "alone, or `chapar`, always a JSON envelope with an id.",
    )
    contact_window: float = Field(
        15.0,
        ge=1,
        le=3600,
        description="Seconds after a device spoke in which what waits for it is sent. Carriers close the way to a "
        "device 20 to 350 s after its last packet.",
    )
    contact_delay: float = Field(
        0.5,
        ge=0,
        le=60,
        description="Seconds from there until the first of it leaves, because firmware speaks before it subscribes.",
    )
    auto_register: bool = Field(default=True, description="Whether a device that nobody registered is, once it speaks.")
    max_devices: int = Field(
        100_000,
        ge=1,
        le=_LARGEST_COUNT,
        description="Devices that are known at most, registered or met: whoever may publish could invent them.",
    )

    catalog: Path | None = Field(
        None,
        description="TOML file that describes operations and their parameters, read at start. Unset: none is "
        "described, and any parameters are taken.",
    )

    publish_timeout: float = Field(
        5.0,
        gt=0,
        le=LONGEST_WAIT,
        description="Seconds a call waits for the database and the broker before it is answered without them. "
        "Below common HTTP client time-outs of 10 s.",
    )
    default_expiry: float = Field(
        3600.0,
        gt=0,
        le=_LONGEST_EXPIRY,
        description="Seconds after which a message that names no `expires_in` is not sent any more. "
        "One hour, because a stale command floods a field.",
    )
    max_expiry: float = Field(
        30 * 86400.0,
        gt=0,
        le=_LONGEST_EXPIRY,
        description="Largest `expires_in`, and how far ahead `deliver_at` may be, in seconds.",
    )
    max_device_queue: int = Field(
        1000,
        ge=1,
        le=_LARGEST_COUNT,
        description="Unfinished messages one device may have, waiting or on their way; more means it is long gone.",
    )
    max_queue: int = Field(
        1_000_000,
        ge=1,
        le=_LARGEST_COUNT,
        description="Unfinished messages in all. Bounds the disk that an outage may fill: about 0.5 GB.",
    )
    lease: float = Field(
        15.0,
        ge=1,
        le=600,
        description="Seconds after which another process takes over what a silent one held (PostgreSQL). "
        "Longer than a pause of a busy machine.",
    )
    retention_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        description="Days after which finished messages are forgotten. Unset: never; nothing is lost unasked.",
    )
    events_retention_days: float = Field(
        7,
        ge=0.01,
        le=36_500,
        description="Days for which events are kept, so that a listener who was away can go on where it was.",
    )
    max_listeners: int = Field(
        1000,
        ge=1,
        le=_LARGEST_COUNT,
        description="Listeners to events at one process; the next one is answered 503. About 23 KB each.",
    )
    workers: int = Field(
        1, ge=1, le=64, description="Gateway processes behind one port; more than one needs PostgreSQL."
    )
    jwt_secret: Secret | None = Field(
        None, description="Secret of HS256 tokens, at least 32 random bytes. One of the three ways to verify tokens."
    )
    jwt_key_file: Path | None = Field(
        None, description="Public key of RS256, ES256 or EdDSA tokens (PEM); its kind decides which."
    )
    jwt_jwks_url: str | None = Field(
        None, description="Key set of the tokens' issuer (JWKS, https). Fetched again every few minutes."
    )
    jwt_ca_file: Path | None = Field(
        None, description="CA certificates (PEM) for an https key set. Unset: the system's."
    )
    proxy: Secret | None = Field(
        None,
        description="HTTP proxy to the key set and, for the command line, to a gateway elsewhere. Unset: none, "
        "whatever `HTTP_PROXY` says.",
    )
    jwt_issuer: str | None = Field(None, description="`iss` that tokens must have; required with any of the three.")
    jwt_audience: str | None = Field(None, description="`aud` that tokens must have; required with any of the three.")
    jwt_leeway: float = Field(
        30.0,
        ge=0,
        le=600,
        description="Seconds by which the issuer's clock may differ from this machine's: before `nbf`, behind `exp`. "
        "Clocks that are set over the network differ by less, boards without a battery by more.",
    )
    trusted_proxies: str | None = Field(
        None,
        description="Addresses of proxies whose `X-Forwarded-For` says where a call is from, and `X-Forwarded-Prefix` "
        "below which path it was asked for, comma-separated. "
        "Networks too, as 10.0.0.0/8. Unset: none, because anybody can send these headers.",
    )
    root_path: str = Field(
        "",
        description="Path below which a proxy shows the API, like `/chapar`, where the proxy does not say so itself. "
        "It stands in front of every link. Unset: none.",
    )
    requests_per_second: float | None = Field(
        None, ge=0.001, le=1e6, description="Requests of one key or token. Unset: as many as it sends."
    )
    messages_per_second: float | None = Field(
        None,
        ge=0.001,
        le=1e6,
        description="Messages of one key or token, in single and bulk calls. Unset: as many as it sends.",
    )
    address_requests_per_second: float | None = Field(
        None,
        ge=0.001,
        le=1e6,
        description="Requests from one address (IPv6: one /64). Unset: many callers may share a proxy.",
    )
    burst: int = Field(
        10, ge=1, le=3600, description="Seconds over which the three rates are counted: so much may come at once."
    )
    max_waits: int = Field(
        5000,
        ge=1,
        le=_LARGEST_COUNT,
        description="Sends, single or bulk, and messages shown with `wait`, whose answers one key or token may wait "
        "for at a time; each costs memory.",
    )
    max_body_bytes: int = Field(
        64 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="Largest request body, and largest message of a bulk call, in bytes; reading stops there. "
        "A command is small.",
    )
    max_bulk_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        le=1024 * 1024 * 1024,
        description="Largest body of one bulk call in bytes: 10,000 messages with parameters.",
    )
    max_caller_bodies_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024,
        le=1024 * 1024 * 1024,
        description="Bytes of request bodies that one key or token (with open access: one address) may have in memory "
        "at a time; each message of a bulk call counts 2 KiB more. Three calls of 10,000 messages; never less than "
        "the largest one.",
    )
    max_bodies_bytes: int = Field(
        96 * 1024 * 1024,
        ge=1024,
        le=1024 * 1024 * 1024,
        description="The same for all callers together, in one process: four calls of 10,000 messages.",
    )
    body_timeout: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds a client may take to send its request body, so that slow ones cost little.",
    )
    max_head_bytes: int = Field(
        16 * 1024,
        ge=1024,
        le=256 * 1024,
        description="Largest request line and headers together, in bytes. A large token has 8 KiB.",
    )
    head_timeout: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds from connecting, and from a request's first byte, within which its headers must be there.",
    )
    write_timeout: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds after which a client that takes nothing of its answer is cut off.",
    )
    idle_timeout: int = Field(
        75,
        ge=1,
        le=86_400,
        description="Seconds a connection may be idle between requests. "
        "Longer than the 60 s of common proxies, so that it is they who close.",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=_LARGEST_COUNT,
        description="Open HTTP connections of one process; the next one is answered 503. "
        "About 15 KB each, with TLS 50.",
    )

    console_idle_timeout: int = Field(
        1800,
        ge=60,
        le=604_800,
        description="Seconds after which the console signs out who has not used it. Half an hour, because a screen in "
        "an office is left alone.",
    )
    allowed_hosts: str = Field(
        "",
        description="Further names by which the API may be called, comma-separated. On loopback every other name is "
        "refused, so that no web page can reach it by a name of its own.",
    )
    cors_origins: str = Field(
        "",
        description="Origins whose pages may call the API, comma-separated, like `https://ops.example.org`. "
        "Unset: none.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe event logged.")
    log_format: Literal["console", "json"] = Field(
        "console", description="`console` for people, `json` (one object a line) for machines."
    )

    @field_validator("broker_url")
    @classmethod
    def _broker_url_parses(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            BrokerAddress.parse_list(value.get_secret_value())
        return value

    @field_validator("broker_ca_file", "broker_cert_file", "broker_key_file", "broker_server_name", mode="before")
    @classmethod
    def _broker_tls_is_used(cls, value: object, info: ValidationInfo) -> object:
        if value in {None, ""}:
            return None
        url = info.data.get("broker_url", SecretStr("mqtts://one-that-cannot-be-read"))
        if url is None or not any(address.tls for address in BrokerAddress.parse_list(url.get_secret_value())):
            raise Problem(Phrase("setting.broker_tls_unused"))
        if info.field_name == "broker_key_file" and info.data.get("broker_cert_file", value) is None:
            raise Problem(Phrase("setting.broker_key_alone"))
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _case_does_not_matter(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _trusted_proxies_are_addresses(cls, value: str | None) -> str | None:
        for proxy in listed(value or ""):
            try:
                ip_network(proxy)
            except ValueError:
                raise Problem(Phrase("setting.trusted_proxy", proxy=proxy)) from None
        return value

    @field_validator("cors_origins")
    @classmethod
    def _cors_origins_are_origins(cls, value: str) -> str:
        for origin in listed(value):
            if not is_origin(origin):
                raise Problem(Phrase("setting.cors_origin", origin=origin))
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _allowed_hosts_are_names(cls, value: str) -> str:
        for host in listed(value):
            if not is_host_in_url(host):
                raise Problem(Phrase("setting.allowed_host", host=host))
        return value

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_path(cls, value: str) -> str:
        root_path = normal_root_path(value)
        if root_path is None:
            raise Problem(Phrase("setting.root_path"))
        return root_path

    @field_validator("broker_server_name")
    @classmethod
    def _broker_server_name_is_a_name(cls, value: str | None) -> str | None:
        try:
            if value is None or is_host(value.encode("idna").decode()):
                return value
        except UnicodeError:
            pass
        raise Problem(Phrase("setting.broker_server_name"))

    @field_validator("proxy")
    @classmethod
    def _proxy_is_one(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            from chapar.runtime.outbound import proxy_for  # noqa: PLC0415 - its library takes long to load

            proxy_for("", value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url_is_known(cls, value: SecretStr) -> SecretStr:
        match = _DATABASE_URL.match(value.get_secret_value())
        scheme = match["scheme"].partition("+")[0] if match else None
        if match is None or scheme not in {"sqlite", "postgresql", "postgres"}:
            raise Problem(Phrase("setting.database_url"))
        if scheme != "sqlite" and "@" in match["place"]:
            raise Problem(Phrase("setting.database_url_signs"))
        return value

    def brokers(self) -> tuple[BrokerAddress, ...]:
        """The brokers to dial, in order; the built-in one where none is set."""
        if self.broker_url is None:
            built_in = BrokerAddress(
                "127.0.0.1",
                self.embedded_port + 1,
                max_packet_size=4 + EMBEDDED_LARGEST,
                properties=False,
                outlives_us=False,
            )
            return (built_in,)
        return BrokerAddress.parse_list(self.broker_url.get_secret_value())

    def without_effect(self) -> dict[str, str]:
        """The settings that were set and do nothing as things are, each with the reason."""
        rates = (self.requests_per_second, self.messages_per_second, self.address_requests_per_second)
        found = {}
        if self.broker_url is not None:
            found["embedded_port"] = "CHAPAR_BROKER_URL is set, so the built-in broker does not run."
        if not any(rates):
            found["burst"] = "None of the three rates is set."
        if self.serves_alone:
            found["lease"] = "SQLite serves one process, so no other takes anything over."
        if self.jwt_jwks_url is None:
            found["jwt_ca_file"] = "It is for the key set, and CHAPAR_JWT_JWKS_URL is not set."
        if self.default_expiry > self.max_expiry:
            found["default_expiry"] = "CHAPAR_MAX_EXPIRY is less, and counts."
        return {f"CHAPAR_{name.upper()}": why for name, why in found.items() if name in self.model_fields_set}

    def shown(self) -> list[ShownSetting]:
        """Every setting, by name: of a secret only whether it is set, and of an address no password."""
        secrets = set(secrets_of(type(self)))
        found = []
        for name in sorted(type(self).model_fields):
            value = None if name in secrets else getattr(self, name)
            text = str(value).lower() if isinstance(value, bool) else _SECRET_IN_URL.sub("\u2026", str(value))
            shown = None if value in {None, ""} else text
            variable = f"CHAPAR_{name.upper()}"
            found.append(ShownSetting(variable, shown, name in secrets, name in self.model_fields_set))
        return found

    @property
    def serves_alone(self) -> bool:
        """Return whether no other gateway process can use the database."""
        return self.database.startswith("sqlite")

    @property
    def database(self) -> str:
        """The database's URL without its secret, to show."""
        match = _DATABASE_URL.match(self.database_url.get_secret_value())
        return f"{match['scheme']}://{match['place']}" if match else ""


def listed(setting: str) -> list[str]:
    """The items of a setting that separates them by commas."""
    return [item.strip() for item in setting.split(",") if item.strip()]


def check_language() -> Language:
    """The language of the command line; raises SettingInvalid for one that there is not."""
    wanted = os.environ.get("CHAPAR_LANGUAGE") or "en"
    if not re.match(r"(en|fa)\b|(en|fa)_", wanted, re.IGNORECASE):
        raise SettingInvalid("CHAPAR_LANGUAGE", Phrase("setting.language"))
    return preferred_language()


def database_url() -> str:
    """The URL of the database, with its secret, as the settings say; raises SettingInvalid."""
    return Settings.load().database_url.get_secret_value()


def preferred_language() -> Language:
    """Choose the language of the command line: `CHAPAR_LANGUAGE` (en, fa), else that of the locale (POSIX.1 §8.2)."""
    variables = ("CHAPAR_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    wanted = next(filter(None, map(os.environ.get, variables)), "")
    return "fa" if wanted.lower().startswith("fa") else "en"
