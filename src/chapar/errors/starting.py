"""Why the gateway does not start; `StoreError` and `LinkError` have reasons of their own."""

from dataclasses import dataclass

from chapar.errors.root import Both, ChaparError


class Problem(ValueError):
    """What is wrong with a value, in both languages; reads on from the setting's name and never repeats a secret."""

    def __init__(self, english: str, persian: str) -> None:
        super().__init__(english)
        self.persian = persian


@dataclass(eq=False)
class SettingInvalid(ChaparError):
    """A setting has a value that cannot work; found before anything is started.

    The problem reads on from the colon, in both languages; what a library says there is English only.
    """

    code = "setting_invalid"

    setting: str
    problem: str
    problem_fa: str | None = None

    @property
    def why(self) -> Both:
        """The problem, in both languages."""
        return Both(self.problem, self.problem_fa or self.problem)


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
