"""Reasons why the gateway does not start; `StoreError` and `LinkError` have reasons of their own."""

from dataclasses import dataclass

from chapar.errors.root import ChaparError, Phrase


class Problem(ValueError):
    """A fault in a value; the phrase reads on from the setting's name and never repeats a secret."""

    def __init__(self, phrase: Phrase) -> None:
        super().__init__(str(phrase))
        self.phrase = phrase


@dataclass(eq=False)
class SettingInvalid(ChaparError):
    """A setting has a value that cannot work; found before anything is started.

    The problem reads on from the colon; what a library says there is English only.
    """

    code = "setting_invalid"

    setting: str
    problem: Phrase | str


@dataclass(eq=False)
class PortTaken(ChaparError):
    """A port that must be listened on is in use."""

    code = "port_taken"

    host: str
    port: int
    setting: str


@dataclass(eq=False)
class WorkerFailed(ChaparError):
    """One of several gateway processes ended before it served; it has said why."""

    code = "worker_failed"

    exit_code: int
