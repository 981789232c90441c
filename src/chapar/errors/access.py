"""Why a caller is not let in, or not let do what it asks: nothing was stored, nothing was sent."""

from dataclasses import dataclass

from chapar.errors.root import ChaparError


@dataclass(eq=False)
class AccessError(ChaparError):
    """The caller may not do this: nothing was stored, nothing was sent."""

    code = "access_denied"


@dataclass(eq=False)
class Unauthenticated(AccessError):
    """The caller did not say who it is (RFC 9110 §15.5.2)."""

    code = "unauthenticated"
    en = (
        "This gateway asks who calls. Send `Authorization: Bearer …` with an API key or a token; "
        "`chapar keys create` makes a key."
    )
    fa = (
        "این دروازه می‌پرسد چه کسی فرامی‌خواند. سرآیند `Authorization: Bearer …` را با کلید API یا توکن بفرستید؛ "
        "`chapar keys create` کلید می‌سازد."
    )


@dataclass(eq=False)
class CredentialInvalid(Unauthenticated):
    """What the caller sent does not prove who it is; the problem reads on from `it`, in both languages."""

    code = "credential_invalid"
    en = "The key or token in `Authorization` is not accepted: it {problem_en}."
    fa = "کلید یا توکنی که در `Authorization` آمده پذیرفته نیست: {problem_fa}."

    problem_en: str
    problem_fa: str


@dataclass(eq=False)
class ScopeMissing(AccessError):
    """The caller's key or token does not allow this kind of request."""

    code = "scope_missing"
    en = "This needs the scope `{scope}`, which your key or token does not have. Ask its owner for one that has it."
    fa = "این کار دامنهٔ `{scope}` را می‌خواهد که کلید یا توکن شما ندارد. از صاحب آن کلیدی با این دامنه بخواهید."

    scope: str


@dataclass(eq=False)
class OutOfReach(AccessError):
    """The caller's key or token is for other devices or operations."""

    code = "out_of_reach"
    en = "Your key or token does not reach the operation `{micro_op}` of the device `{imei}`."
    fa = "کلید یا توکن شما به عملیات `{micro_op}` روی دستگاه `{imei}` نمی‌رسد."

    imei: str
    micro_op: str


@dataclass(eq=False)
class GrantTooWide(AccessError):
    """Nobody gives away more than they have."""

    code = "grant_too_wide"
    en = "A key cannot be given more than your own has: {excess}. Leave it out, or ask somebody who has it."
    fa = "به یک کلید نمی‌توان بیش از آنچه کلید شما دارد داد: {excess}. آن را حذف کنید یا از دارندهٔ آن بخواهید."

    excess: str


@dataclass(eq=False)
class AccessUnavailable(AccessError):
    """What the check needs cannot be read now, so nobody is let in on trust.

    `cause` is for the log: whoever asks has yet to prove who they are, and addresses of ours are not for everybody.
    """

    code = "access_unavailable"
    en = "Keys and tokens cannot be checked now. Nothing was stored or sent; try again in a moment."
    fa = "اکنون نمی‌توان کلید یا توکن را بررسی کرد. چیزی ذخیره یا فرستاده نشد؛ اندکی بعد دوباره بکوشید."

    cause: str


@dataclass(eq=False)
class RateLimited(ChaparError):
    """The caller asked too often. `limit` is what the setting allows, `retry_after` is in seconds."""

    code = "rate_limited"
    en = "Too many at once: {setting} allows {limit}. Nothing was stored or sent; try again in {retry_after} s."
    fa = "بیش از اندازه است: {setting} اجازهٔ {limit} می‌دهد. چیزی ذخیره یا فرستاده نشد؛ {retry_after} ثانیهٔ دیگر بکوشید."

    setting: str
    limit: str
    retry_after: int


@dataclass(eq=False)
class ApiKeyNotFound(ChaparError):
    """No API key has this id, or none that the caller may see."""

    code = "key_not_found"
    en = "There is no API key {id}. `chapar keys list` shows those there are."
    fa = "کلید API با شناسهٔ {id} وجود ندارد. `chapar keys list` کلیدهای موجود را نشان می‌دهد."

    id: str
