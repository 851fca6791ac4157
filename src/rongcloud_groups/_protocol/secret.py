"""The App Secret as a value that shows itself nowhere."""

from typing import NoReturn


class Secret:
    """A string that no ``repr``, ``str``, ``format`` or pickle shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def of(cls, value: "str | Secret") -> "Secret":
        """The value as a secret."""
        return value if isinstance(value, Secret) else cls(value)

    def reveal(self) -> str:
        """The string itself; call it where it is used and keep the result in no variable."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: give the process that needs it its own")
