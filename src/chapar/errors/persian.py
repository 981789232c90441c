"""Numbers as a Persian reader writes them: digits, separators."""

_THOUSANDS = "\u066c"
_DECIMAL = "\u066b"
_DIGITS = {str(digit): chr(0x06F0 + digit) for digit in range(10)}
_PERSIAN_DIGITS = str.maketrans(_DIGITS)
_PERSIAN_NUMBER = str.maketrans(_DIGITS | {",": _THOUSANDS, ".": _DECIMAL})
_ASCII_DIGITS = str.maketrans({zero + digit: str(digit) for zero in (0x06F0, 0x0660) for digit in range(10)})
_ASCII_NUMBER = _ASCII_DIGITS | str.maketrans({_THOUSANDS: "", _DECIMAL: "."})


def persian_digits(text: str) -> str:
    """The text with Persian digits."""
    return text.translate(_PERSIAN_DIGITS)


def persian_number(number: str) -> str:
    """A number with Persian digits, decimal and thousands separators."""
    return number.translate(_PERSIAN_NUMBER)


def ascii_digits(text: str) -> str:
    """The text with ASCII digits in place of Persian and Arabic ones."""
    return text.translate(_ASCII_DIGITS)


def ascii_number(number: str) -> str:
    """A number as a program reads it, written with Persian or Arabic digits and separators."""
    return number.translate(_ASCII_NUMBER)
