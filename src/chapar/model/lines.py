"""Text on one line: what comes from elsewhere neither breaks it nor moves the cursor of whoever reads it."""

import json

_JOINERS = "\u200c\u200d"  # invisible, harmless, and part of Persian spelling


def plain(text: str) -> str:
    r"""The text with everything that is not printed written out, as in `\x1b`.

    What devices and callers say must not move the cursor, set colours or turn the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in _JOINERS
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def json_line(value: object) -> str:
    """The value as JSON on one line: lossless, readable in any script, and as harmless as `plain()`.

    What JSON does not know stands in it as Python shows it.
    """
    return "".join(
        character if character.isprintable() or character in _JOINERS else json.dumps(character)[1:-1]
        for character in json.dumps(value, ensure_ascii=False, default=repr)
    )
