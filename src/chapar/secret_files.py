"""Secrets from files, as container platforms hand them out: `CHAPAR_X_FILE` names the file that holds `CHAPAR_X`.

Every setting whose type is `SecretStr` has this second form by itself.
"""

import os
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from chapar.errors import SettingInvalid


class SecretFiles(PydanticBaseSettingsSource):
    """What the files say that the environment names."""

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
        return secret_from_file(f"{self.config['env_prefix']}{field_name.upper()}"), field_name, False


def secret_from_file(setting: str) -> str | None:
    """The content of the file that `setting`_FILE names, None where it names none; raises SettingInvalid."""
    file = os.environ.get(f"{setting}_FILE")
    if file is not None and setting in os.environ:
        raise SettingInvalid(
            f"{setting}_FILE",
            f"{setting} is set too. Set one of the two.",
            f"متغیر {setting} هم تعیین شده است. تنها یکی از این دو را تعیین کنید.",
        )
    return None if file is None else _content(Path(file), f"{setting}_FILE")


def secrets_of(settings: type[BaseSettings]) -> list[str]:
    """The names of the settings that are secrets."""
    return [name for name, field in settings.model_fields.items() if _is_secret(field.annotation)]


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def _content(file: Path, setting: str) -> str:
    """The file's text without the line break at its end."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        cause = error.strerror or str(error)
        raise SettingInvalid(
            setting, f"{file} cannot be read: {cause}.", f"فایل {file} خوانده نمی‌شود: {cause}."
        ) from None
    except UnicodeDecodeError:
        raise SettingInvalid(setting, f"{file} is not text in UTF-8.", f"فایل {file} متن UTF-8 نیست.") from None
    return text.removesuffix("\n").removesuffix("\r")
