"""What goes wrong between the command line and the gateway that it calls."""

from collections.abc import Mapping
from dataclasses import dataclass

from chapar.errors.root import ChaparError, Language
from chapar.errors.tls import GATEWAY_CURES, TlsProblem

_SERVER_ERROR = 500  # RFC 9110 §15.6


@dataclass(eq=False)
class UsageInvalid(ChaparError):
    """The command was not written as it must be; the problem is a sentence in both languages."""

    code = "usage_invalid"
    en = "{problem} `chapar --help`, and `--help` behind a command, show how."
    fa = "{problem} راهنما: `chapar --help`، و `--help` پس از هر دستور."

    problem_en: str
    problem_fa: str

    def sentence(self, language: Language = "en") -> str:
        """The problem, and where the right way is shown."""
        if language == "fa":
            return self.fa.format(problem=self.problem_fa)
        return self.en.format(problem=self.problem_en)


@dataclass(eq=False)
class OutputLost(ChaparError):
    """Something that a command printed could not be written; what the command did is done."""

    code = "output_lost"
    en = "Some of the output is lost ({problem}). What the command did stands."
    fa = "بخشی از خروجی از دست رفت ({problem}). آنچه دستور انجام داده برجاست."

    problem: str
    reader_is_gone: bool = False  #: on purpose, as `head` does


@dataclass(eq=False)
class GatewayError(ChaparError):
    """The command line did not get from the gateway at `url` what it asked for."""

    code = "gateway_error"
    en = "The gateway at {url} did not do what it was asked."
    fa = "دروازهٔ {url} آنچه را خواسته شد انجام نداد."

    url: str

    @property
    def passing(self) -> bool:
        """Whether it may be over soon, as when the gateway restarts."""
        return True


@dataclass(eq=False)
class GatewayUnreachable(GatewayError):
    """There is no connection, so nothing was asked."""

    code = "gateway_unreachable"
    en = (
        "No gateway answers at {url} ({cause}). "
        "Start one with `chapar serve`, or name another with --url or CHAPAR_URL."
    )
    fa = (
        "دروازه‌ای در {url} پاسخ نمی‌دهد ({cause}). "
        "با `chapar serve` آن را راه بیندازید یا با --url یا CHAPAR_URL دروازهٔ دیگری برگزینید."
    )

    cause: str


@dataclass(eq=False)
class GatewayUntrusted(GatewayError):
    """There is a connection, and TLS on it failed, so nothing was asked."""

    code = "gateway_untrusted"
    en = "TLS with {url} failed: {cause}. {cure}"
    fa = "برقراری TLS با {url} ناکام ماند: {cause}. {cure}"

    problem: TlsProblem

    def facts(self) -> Mapping[str, object]:
        """Add the cause, and what helps against it."""
        return {**vars(self), "cause": self.problem.cause, "cure": GATEWAY_CURES[self.problem.fault]}

    @property
    def passing(self) -> bool:
        """Somebody has to change something."""
        return False


@dataclass(eq=False)
class GatewayLost(GatewayError):
    """It was asked, and its answer did not come: whether it did what was asked is unknown."""

    code = "gateway_lost"
    en = "The gateway at {url} was asked and gave no answer ({cause}); `chapar messages` shows what it did."
    fa = "از دروازهٔ {url} درخواست شد ولی پاسخی نیامد ({cause})؛ `chapar messages` نشان می‌دهد که چه کرد."

    cause: str


@dataclass(eq=False)
class GatewayRefused(GatewayError):
    """The gateway answered with a problem (RFC 9457), whose own sentence this is."""

    code = "gateway_refused"
    en = "The gateway says: {reason}"
    fa = "پاسخ دروازه: {reason}"

    status: int
    reason: str
    body: Mapping[str, object]

    @property
    def passing(self) -> bool:
        """A fault of the gateway's may pass; one of the request's does not."""
        return self.status >= _SERVER_ERROR


@dataclass(eq=False)
class NotAGateway(GatewayError):
    """What answers is something else, or a proxy whose gateway is away."""

    code = "not_a_gateway"
    en = "{url} answers, but not as a Chapar gateway does (HTTP {status}). Check --url and CHAPAR_URL."
    fa = "{url} پاسخ می‌دهد، ولی نه مانند دروازهٔ چاپار (HTTP {status}). --url و CHAPAR_URL را بررسی کنید."

    status: int

    @property
    def passing(self) -> bool:
        """502 and its like are how a proxy says that the gateway is away."""
        return self.status >= _SERVER_ERROR
