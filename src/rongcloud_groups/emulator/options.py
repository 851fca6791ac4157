"""The options of the emulator as a program: one table for both of its command lines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

_AT_LEAST_0: Final = ("rate", "retry_after", "other", "latency", "latency_tail", "listed")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class EmulatorOptions:
    """How the emulator runs; the ``help`` in a field's metadata describes it."""

    host: str = _option("127.0.0.1", "Address to listen on.")
    port: int = _option(0, "Port to listen on; 0 takes a free one.")
    fault: tuple[str, ...] | None = _option(
        None, "What goes wrong, such as rst=1% or storm=10-20; may be given again. A wrong one lists them all."
    )
    rate: int = _option(100, "Requests per second that are let in; 0 lifts the limit.")
    window: Literal["sliding", "fixed", "bucket"] = _option("sliding", "How they are counted.")
    count_refused: bool = _option(default=False, text="Refused requests count as well.")
    retry_after: float | None = _option(None, "Seconds in the Retry-After of a refusal.")
    other: float = _option(0.0, "Requests per second of another consumer of the App Key.")
    latency: float = _option(0.0, "Seconds before each response.")
    latency_tail: float = _option(0.0, "Mean of an exponential addition to it, in seconds.")
    groups: Path | None = _option(  # noqa: RUF009  a field, whose default is None
        None, "A file with all the groups, one JSON object a line; without it they are made up from their ID."
    )
    listed: int = _option(0, "How many made-up groups the listing has.")
    unknown: float = _option(0.1, "Share of the IDs, 0 to 1, that name no group.")
    seed: int = _option(0, "Another one makes other groups, and draws other faults.")
    ca_file: Path | None = _option(  # noqa: RUF009  a field, whose default is None
        None, "Where to write the certificate to trust; a temporary file by default."
    )
    tls: bool = _option(default=True, text="Speak TLS, or HTTP/1.1 in the clear.")
    http2: bool = _option(default=True, text="Offer HTTP/2, or HTTP/1.1 alone.")

    def check(self) -> None:
        """Raise a ValueError where a number is out of its range."""
        highest = {"port": 65_535, "unknown": 1, **dict.fromkeys(_AT_LEAST_0, float("inf"))}
        for name, most in highest.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                to = "or more" if most == float("inf") else f"to {most}"
                raise ValueError(f"--{name.replace('_', '-')} is {value}; give 0 {to}")
