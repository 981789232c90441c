"""API keys: what they look like, and how one is recognised without being stored."""

import binascii
import hashlib
import secrets
import string
from typing import Final

PREFIX: Final = "chapar_"
"""How every key begins, so that people and secret scanners recognise one."""

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_LENGTH: Final = 43  # of 62 characters: 256 bits
_CHECKSUM_LENGTH: Final = 6  # of 62 characters: 32 bits
_LENGTH: Final = len(PREFIX) + _SECRET_LENGTH + _CHECKSUM_LENGTH


def new_api_key() -> str:
    """A new key: the prefix, 256 random bits and a checksum."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    return PREFIX + secret + _checksum(secret)


def is_api_key(text: str) -> bool:
    """Return whether this can be a key. What is cut off or mistyped is found here, before the database is asked."""
    secret, checksum = text[len(PREFIX) : -_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    return len(text) == _LENGTH and text.startswith(PREFIX) and text.isascii() and checksum == _checksum(secret)


def hash_of(api_key: str) -> str:
    """SHA-256 of a key, in hexadecimal: what is stored. 256 random bits need no slow hash."""
    return hashlib.sha256(api_key.encode()).hexdigest()


def _checksum(secret: str) -> str:
    value, digits = binascii.crc32(secret.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits += _ALPHABET[digit]
    return digits
