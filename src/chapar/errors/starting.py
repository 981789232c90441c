"""Why the gateway does not start; `StoreError` and `LinkError` have reasons of their own."""

from collections.abc import Mapping
from dataclasses import dataclass

from chapar.errors.root import ChaparError, Language


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
    en = "{setting} cannot be used: {problem}"
    fa = "تنظیم {setting} قابل استفاده نیست: {problem}"

    setting: str
    problem: str
    problem_fa: str | None = None

    def sentence(self, language: Language = "en") -> str:
        """The setting's name, and what is wrong with its value, never the value itself."""
        if language == "fa":
            return self.fa.format(setting=self.setting, problem=self.problem_fa or self.problem)
        return self.en.format(setting=self.setting, problem=self.problem)


@dataclass(eq=False)
class PortTaken(ChaparError):
    """A port that must be listened on is in use."""

    code = "port_taken"
    en = "Port {port} on {host} is already in use. Free it, or choose another with {setting}."
    fa = "درگاه {port} روی {host} در حال استفاده است. آن را آزاد کنید یا با {setting} درگاه دیگری برگزینید."

    host: str
    port: int
    setting: str

    def facts(self) -> Mapping[str, object]:
        """The port stays in ASCII digits: it is something to type."""
        return {**vars(self), "port": str(self.port)}


@dataclass(eq=False)
class WorkerFailed(ChaparError):
    """One of several gateway processes ended before it served; it has said why."""

    code = "worker_failed"
    en = "A worker ended at its start, with exit code {exit_code}. What it said stands above."
    fa = "یکی از فرایندهای کارگر در آغاز کار پایان یافت (کد خروج {exit_code}). علت را بالاتر نوشته است."

    exit_code: int
