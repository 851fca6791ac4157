"""Text from elsewhere, made fit for a terminal."""

_JOINERS = {"\N{ZERO WIDTH JOINER}"}
"""Not printable by themselves, but inside an emoji."""


def printable(text: str) -> str:
    """The text without what a terminal would obey instead of showing."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _JOINERS else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def one_line(text: str) -> str:
    """The text in one line, and `printable`."""
    return printable(" ".join(text.split()))
