"""Reasons why the gateway does not start; `StoreError` and `LinkError` have reasons of their own."""

from dataclasses import dataclass
from pathlib import Path

from chapar.errors.root import ChaparError, Phrase


class Problem(ValueError):
    """A fault in a value; the phrase reads on from the setting's name and never repeats a secret."""

    def __init__(self, phrase: Phrase) -> None:
        super().__init__(str(phrase))
        self.phrase = phrase


@dataclass(eq=False)
class SettingInvalid(ChaparError):
    """A setting has a value that cannot work; found before anything is started.

    The problem reads on from the colon.
    """

    code = "setting_invalid"

    setting: str
    problem: Phrase
    origin: Phrase | str = ""  #: where it is written, if not in the environment

    @property
    def place(self) -> Phrase | str:
        """The origin as it stands in the sentence."""
        return Phrase("setting.place", origin=self.origin) if self.origin else ""


@dataclass(eq=False)
class ConfigurationInvalid(ChaparError):
    """A file with settings cannot be read; found before anything is started."""

    code = "configuration_invalid"

    file: Path
    problem: Phrase
    named_by: str = ""  #: the variable that names it

    @property
    def place(self) -> Phrase | str:
        """The variable as it stands in the sentence."""
        return Phrase("setting.place", origin=self.named_by) if self.named_by else ""


@dataclass(eq=False)
class PortTaken(ChaparError):
    """A port that must be listened on is in use."""

    code = "port_taken"

    host: str
    port: int
    setting: str
    instead: Phrase | str = ""  #: what else may help


@dataclass(eq=False)
class WorkerFailed(ChaparError):
    """One of several gateway processes ended before it served; it has said why."""

    code = "worker_failed"

    exit_code: int
