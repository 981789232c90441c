"""Settings from files: `.env` and one TOML file. The environment outranks both, and `.env` the TOML file.

What they say becomes the environment of the process, so every command and every child process finds it in one place.
"""

import difflib
import io
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from chapar.errors import ConfigurationInvalid, Phrase, SettingInvalid
from chapar.runtime.secret_files import secrets_of
from chapar.runtime.settings import Settings

_PREFIX: Final = "CHAPAR_"
_CONFIG: Final = "CHAPAR_CONFIG"
_DEFAULT_CONFIG: Final = "chapar.toml"
_DOTENV: Final = ".env"
_LARGEST: Final = 1024 * 1024  # bytes of a file; all settings together have a few thousand
_CLOSE: Final = 0.5  # of difflib's 0 to 1, from which on a name is taken for a misspelt one

# Of the command line alone, beside its `CHAPAR_API_KEY`.
_COMMAND_LINE: Final = ("CHAPAR_URL", "CHAPAR_CA_FILE", "CHAPAR_LANGUAGE", _CONFIG)
_FILE_FORMS: Final = {
    f"{secret}_FILE": secret
    for secret in ("CHAPAR_API_KEY", *(f"{_PREFIX}{name.upper()}" for name in secrets_of(Settings)))
}
KNOWN: Final = frozenset(
    {
        *(f"{_PREFIX}{name.upper()}" for name in Settings.model_fields),
        *_FILE_FORMS.keys(),
        *_FILE_FORMS.values(),
        *_COMMAND_LINE,
    }
)
"""Every variable that means something."""

_NAMES: Final = sorted(variable.removeprefix(_PREFIX) for variable in KNOWN)

# What Kubernetes sets in each container for a Service whose name begins with chapar.
_SERVICE_LINK: Final = re.compile(r"\w+_SERVICE_(HOST|PORT)(_\w+)?|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://.*")


class Unknown(NamedTuple):
    """A name that is no setting, as it was written."""

    name: str
    file: Path | None  #: None: the environment
    nearest: str | None  #: the setting that may have been meant, written likewise

    @property
    def warning(self) -> Phrase:
        """The sentence about it."""
        place = self.name if self.file is None else _key_in(self.file, self.name)
        if self.nearest is None:
            return Phrase("setting.unknown", name=place)
        return Phrase("setting.misspelt", name=place, nearest=self.nearest)


class Configuration(NamedTuple):
    """The files that were read, and the names in them that were not understood."""

    files: tuple[Path, ...] = ()  #: the ones that were there
    unknown: tuple[Unknown, ...] = ()
    origins: Mapping[str, Phrase] = {}  #: by variable: the file and key it is from; none for the environment's own

    def explain(self, error: SettingInvalid) -> None:
        """Add to the error where its setting is written."""
        error.origin = error.origin or self.origins.get(error.setting, "")


class _Source(NamedTuple):
    """Settings from one place."""

    file: Path | None  #: None: the environment
    values: Mapping[str, str]  #: by variable, in capitals
    written: Mapping[str, str]  #: each variable as it stands there


def adopt_files(environment: MutableMapping[str, str], folder: Path = Path()) -> Configuration:
    """Fill `environment` with what the files in `folder`, or the one that CHAPAR_CONFIG names, say and it does not.

    A variable that is empty there is taken away, and means the default whatever a file says.

    Raises ConfigurationInvalid, and SettingInvalid for a value of a type that no setting has.
    """
    sources = [_of_environment(environment)]
    # Not `Path.exists`, which raises PermissionError in a folder that this user may not enter.
    if os.path.exists(file := folder / _DOTENV):  # noqa: PTH110
        sources.append(_source(file, _dotenv(_text(file, owned=True), file)))
    named = next((source.values[_CONFIG] for source in sources if _CONFIG in source.values), "")
    if named or os.path.exists(folder / _DEFAULT_CONFIG):  # noqa: PTH110
        file = folder / (named or _DEFAULT_CONFIG)
        sources.append(_source(file, _toml(_text(file, owned=not named), file)))

    effective: dict[str, str] = {}
    origins: dict[str, Phrase] = {}
    decided: set[str] = set()
    for source in sources:
        said = {name: value for name, value in source.values.items() if _setting(name) not in decided}
        effective |= said
        if source.file is not None:
            origins |= {name: _key_in(source.file, source.written[name]) for name in said}
        decided |= set(map(_setting, said))
    for name in [name for name in environment if name.upper() in KNOWN]:
        del environment[name]
    environment.update({name: value for name, value in effective.items() if value and name in KNOWN})
    files = tuple(source.file.absolute() for source in sources if source.file is not None)
    return Configuration(files, tuple(unknown for source in sources for unknown in _unknown(source)), origins)


def _key_in(file: Path, key: str) -> Phrase:
    return Phrase("setting.key_in_file", key=key, file=file)


def _setting(variable: str) -> str:
    """Return what a variable sets; a secret has two forms, and the one that counts more hides the other."""
    return _FILE_FORMS.get(variable, variable)


def _of_environment(environment: Mapping[str, str]) -> _Source:
    """Small letters will do, but capitals count more."""
    names = sorted((name for name in environment if name.upper().startswith(_PREFIX)), reverse=True)
    return _source(None, {name: environment[name].strip() for name in names if not _is_link(name, environment[name])})


def _is_link(name: str, value: str) -> bool:
    """Return whether Kubernetes has set it; `CHAPAR_PORT=tcp://…` is no port of ours."""
    is_url = name.endswith("_PORT") and _SERVICE_URL.fullmatch(value)
    return bool(is_url or _SERVICE_LINK.fullmatch(name))


def _source(file: Path | None, values: Mapping[str, str]) -> _Source:
    """`values`: by their names as they stand there."""
    return _Source(
        file, {_variable(key): value for key, value in values.items()}, {_variable(key): key for key in values}
    )


def _variable(key: str) -> str:
    """The variable that a name means; in TOML the prefix may be left out."""
    name = key.upper()
    return name if name.startswith(_PREFIX) else f"{_PREFIX}{name}"


def _text(file: Path, *, owned: bool) -> str:
    """The content of a file; `owned`: it was not named, so it counts only where no stranger can have put it there."""
    named_by = "" if owned else _CONFIG
    try:
        with file.open("rb") as opened:
            if owned and sys.platform != "win32" and os.fstat(opened.fileno()).st_uid not in {0, os.geteuid()}:
                raise ConfigurationInvalid(file, Phrase("setting.configuration_foreign"))
            content = opened.read(_LARGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        problem = Phrase("setting.configuration_unreadable", cause=error.strerror or str(error))
        raise ConfigurationInvalid(file, problem, named_by) from None
    except UnicodeDecodeError:
        raise ConfigurationInvalid(file, Phrase("setting.configuration_not_text"), named_by) from None
    if len(content) > _LARGEST:
        raise ConfigurationInvalid(file, Phrase("setting.configuration_large"), named_by)
    return text


def _dotenv(text: str, file: Path) -> dict[str, str]:
    """Our variables among those of `.env`, which other programs may read too."""
    for part in parse_stream(io.StringIO(text)):
        content = part.original.string.lstrip()
        if part.error and _PREFIX in content:
            blank = part.original.string.removesuffix(content).count("\n")
            raise ConfigurationInvalid(file, Phrase("setting.dotenv_malformed", line=part.original.line + blank))
    values = dotenv_values(stream=io.StringIO(text))
    return {name: (value or "").strip() for name, value in values.items() if name.upper().startswith(_PREFIX)}


def _toml(text: str, file: Path) -> dict[str, str]:
    """The settings of the file by their keys, in the form of variables."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationInvalid(file, Phrase("setting.not_toml", cause=error)) from None
    if _CONFIG in set(map(_variable, table)):
        raise SettingInvalid(_CONFIG, Phrase("setting.config_in_config"), _key_in(file, "config"))
    return {key: _as_text(key, value, file) for key, value in table.items()}


def _unknown(source: _Source) -> Iterator[Unknown]:
    for variable in source.values.keys() - KNOWN:
        written = source.written[variable]
        close = difflib.get_close_matches(variable.removeprefix(_PREFIX), _NAMES, 1, _CLOSE)
        nearest = f"{_PREFIX}{close[0]}" if close else None
        if nearest is not None and not written.upper().startswith(_PREFIX):
            nearest = close[0].lower()
        yield Unknown(written, source.file, nearest)


def _as_text(key: str, value: object, file: Path) -> str:
    """A value as a variable holds it."""
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value).strip()
        case list() if not any(isinstance(item, list | dict) for item in value):
            return ",".join(_as_text(key, item, file) for item in value)
        case _:
            raise SettingInvalid(
                f"{_PREFIX}{key.upper().removeprefix(_PREFIX)}", Phrase("setting.value_type"), _key_in(file, key)
            )
