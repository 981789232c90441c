"""Errors between the command line and the gateway that it calls."""

from collections.abc import Mapping
from dataclasses import dataclass

from chapar.errors.root import ChaparError, Phrase
from chapar.errors.tls import GATEWAY_CURES, TlsProblem

_UNAUTHORIZED = 401  # RFC 9110 §15.5.2
_SERVER_ERROR = 500  # RFC 9110 §15.6


@dataclass(eq=False)
class UsageInvalid(ChaparError):
    """The command was not written as it must be; the problem is a sentence."""

    code = "usage_invalid"

    problem: Phrase


@dataclass(eq=False)
class OutputLost(ChaparError):
    """Something that a command printed could not be written; what the command did is done."""

    code = "output_lost"

    problem: str
    reader_is_gone: bool = False  #: on purpose, as `head` does


@dataclass(eq=False)
class GatewayError(ChaparError):
    """The command line did not get from the gateway at `url` what it asked for."""

    code = "gateway_error"

    url: str

    @property
    def passing(self) -> bool:
        """Return whether it may be over soon, as when the gateway restarts."""
        return True


@dataclass(eq=False)
class GatewayUnreachable(GatewayError):
    """There is no connection, so nothing was asked."""

    code = "gateway_unreachable"

    cause: str


@dataclass(eq=False)
class GatewayUntrusted(GatewayError):
    """There is a connection, and TLS on it failed, so nothing was asked."""

    code = "gateway_untrusted"

    problem: TlsProblem

    @property
    def cause(self) -> Phrase:
        """Return what was wrong."""
        return self.problem.cause

    @property
    def cure(self) -> Phrase:
        """Return what helps against it."""
        return GATEWAY_CURES[self.problem.fault]

    @property
    def passing(self) -> bool:
        """Somebody has to change something."""
        return False


@dataclass(eq=False)
class GatewayLost(GatewayError):
    """It was asked, and its answer did not come: whether it did what was asked is unknown."""

    code = "gateway_lost"

    cause: str


@dataclass(eq=False)
class GatewayRefused(GatewayError):
    """The gateway answered with a problem (RFC 9457), whose own sentence this is."""

    code = "gateway_refused"

    status: int
    reason: str
    body: Mapping[str, object]

    @property
    def cure(self) -> Phrase | str:
        """The way to send a key along, where one is missing or wrong."""
        return Phrase("part.key_file") if self.status == _UNAUTHORIZED else ""

    @property
    def passing(self) -> bool:
        """A fault of the gateway's may pass; one of the request's does not."""
        return self.status >= _SERVER_ERROR


@dataclass(eq=False)
class NotAGateway(GatewayError):
    """Something else answers, or a proxy whose gateway is away."""

    code = "not_a_gateway"

    status: int

    @property
    def passing(self) -> bool:
        """502 and its like are how a proxy says that the gateway is away."""
        return self.status >= _SERVER_ERROR
