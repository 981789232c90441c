"""Secrets, from the environment or from files, as container platforms hand them out.

Every setting of the type `Secret` has a second form by itself: `CHAPAR_X_FILE` names the file that holds `CHAPAR_X`.
"""

import os
import string
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import AfterValidator, SecretStr, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from chapar.errors import Phrase, SettingInvalid

_PREFIX: Final = "CHAPAR_"
_LARGEST: Final = 64 * 1024  # bytes of a file: what is larger is no secret, and /dev/zero has no end
_BOM: Final = "\ufeff"
# What editors, shells and web pages leave around a secret: white space, a byte order mark, marks of direction.
_AROUND: Final = string.whitespace + "\x85\xa0\u2028\u2029\u200b\u200e\u200f\u2060" + _BOM
_CONTROLS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})  # Unicode categories; Cs: bytes that are not UTF-8


def trimmed(text: str, setting: str) -> str:
    """A secret without what stands around it; raises SettingInvalid, which does not repeat it, for what it cannot hold.

    A line break or another control character inside is a copy that went wrong. Passed on, it would end up in a header
    or in the name of a file.
    """
    secret = text.strip(_AROUND)
    if any(unicodedata.category(character) in _CONTROLS or character == _BOM for character in secret):
        raise SettingInvalid(setting, Phrase("setting.secret_unclean"))
    return secret


def _trimmed(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    return SecretStr(trimmed(secret.get_secret_value(), f"{_PREFIX}{info.field_name}".upper()))


Secret = Annotated[SecretStr, AfterValidator(_trimmed)]
"""The type of every setting that is a secret."""


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets from the files that the environment names."""

    def __call__(self) -> dict[str, Any]:
        """The content of each file that is named, by setting; raises SettingInvalid."""
        values = {
            name: self.get_field_value(self.settings_cls.model_fields[name], name)[0]
            for name in secrets_of(self.settings_cls)
        }
        return {name: value for name, value in values.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The content of the file for one setting, None where none is named."""
        del field
        return _from_file(f"{_PREFIX}{field_name.upper()}"), field_name, False


def secret_of_environment(setting: str) -> str | None:
    """The secret in the variable `setting`, or in the file that `setting`_FILE names; None where neither is set.

    Raises SettingInvalid.
    """
    return _from_file(setting) or trimmed(os.environ.get(setting, ""), setting) or None


def _from_file(setting: str) -> str | None:
    file = os.environ.get(f"{setting}_FILE")
    if file and os.environ.get(setting):
        raise SettingInvalid(f"{setting}_FILE", Phrase("setting.secret_twice", other=setting))
    return _content(Path(file), f"{setting}_FILE") if file else None


def secrets_of(settings: type[BaseSettings]) -> list[str]:
    """The names of the settings that are secrets."""
    return [name for name, field in settings.model_fields.items() if _is_secret(field.annotation)]


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def _content(file: Path, setting: str) -> str:
    """The secret in the file; an empty one is a mistake, never the setting's default."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        text = content.decode()
    except OSError as error:
        cause = error.strerror or str(error)
        raise SettingInvalid(setting, Phrase("setting.file_unreadable", file=file, cause=cause)) from None
    except UnicodeDecodeError:
        raise SettingInvalid(setting, Phrase("setting.secret_not_text", file=file)) from None
    if len(content) > _LARGEST:
        raise SettingInvalid(setting, Phrase("setting.secret_large", file=file))
    secret = trimmed(text, setting)
    if not secret:
        raise SettingInvalid(setting, Phrase("setting.secret_empty", file=file))
    return secret
