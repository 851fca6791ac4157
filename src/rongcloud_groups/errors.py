"""The errors of this library, as one tree.

::

    RongCloudError
    ├── ConfigError              an option or environment variable is missing or wrong
    ├── InvalidGroupId           refused before any request
    ├── ServiceError             the service responded with an error
    │   ├── AuthenticationError  secret, signature, app or address not accepted
    │   ├── ServiceNotEnabled    group profile hosting is off for this App Key
    │   ├── ParameterError       the service refuses this ID
    │   ├── RateLimited          over the App Key's rate limit
    │   └── ServerError          the service failed or timed out
    ├── TransportError           no response: connection, TLS, HTTP/2, time-out
    ├── DecodeError              a response that cannot be read
    ├── DeadlineExceeded         the caller's deadline passed first
    └── ClientClosed             the client or stream is not open, or was closed during the call
"""

from typing import Any, Literal, Self, cast

Phase = Literal["waiting for budget", "connecting", "waiting for the service"]


class RongCloudError(Exception):
    """The root of every error that this library raises on purpose.

    ``copy.copy`` keeps the cause, the context, the traceback and the notes.

    Attributes:
        request_id: the ``X-Request-ID`` of the request that ended in it, which the service's support asks for; None
            where no request did.
    """

    request_id: str | None = None

    def __copy__(self) -> Self:
        make, arguments, *state = cast("tuple[Any, ...]", self.__reduce__())
        copied: Self = make(*arguments)
        copied.__setstate__(state[0] if state else None)
        if notes := getattr(self, "__notes__", None):
            copied.__notes__ = list(notes)  # a note of the copy is none of the original
        copied.__context__ = self.__context__
        copied.__cause__ = self.__cause__
        copied.__suppress_context__ = self.__suppress_context__
        return copied.with_traceback(self.__traceback__)


class ConfigError(RongCloudError, ValueError):
    """An option or an environment variable is missing or cannot be used; the message names it."""


class InvalidGroupId(RongCloudError, ValueError):  # noqa: N818  the name is part of the public face
    """A group ID that the service cannot take: it was refused here and cost no request.

    Attributes:
        group_id: the ID as it was given, of any type.
        reason: the rule that it breaks.
    """

    def __init__(self, group_id: object, reason: str) -> None:
        super().__init__(group_id, reason)
        self.group_id = group_id
        self.reason = reason

    def __str__(self) -> str:
        return f"{_shortened(self.group_id)} is not a group ID: {self.reason}"


class ServiceError(RongCloudError):
    """The service responded with an error code.

    Attributes:
        code: the service's code, or the HTTP status where the response had none.
        status: the HTTP status.
        message: the service's message, or an excerpt of the response.
        hint: the cure; empty where there is nothing to add.
        retry_after: seconds that the service asks to wait, as with HTTP 429 and 503; None where it does not say.
    """

    def __init__(
        self,
        code: int,
        status: int,
        message: str,
        request_id: str | None = None,
        hint: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, status, message, request_id, hint, retry_after)
        self.code = code
        self.status = status
        self.message = message
        self.request_id = request_id
        self.hint = hint
        self.retry_after = retry_after

    def __str__(self) -> str:
        text = f"{self.message} (code {self.code}, HTTP {self.status}"
        text += f", request {self.request_id})" if self.request_id else ")"
        return f"{text}: {self.hint}" if self.hint else text


class AuthenticationError(ServiceError):
    """The App Key, its secret, the signature or the caller's address is not accepted. It is not retryable."""


class ServiceNotEnabled(ServiceError):  # noqa: N818  the name is part of the public face
    """Group profile hosting is not enabled for this App Key (code 1009, HTTP 430). It is not retryable."""


class ParameterError(ServiceError):
    """The service refuses a parameter; after bisection, the one ID that it stands against."""


class RateLimited(ServiceError):  # noqa: N818  the name is part of the public face
    """Over the rate limit (code 1008, HTTP 429)."""


class ServerError(ServiceError):
    """The service failed or timed out inside (codes 1000 and 1050, any HTTP 5xx)."""


class TransportError(RongCloudError):
    """No response came: name resolution, connection, TLS, HTTP/2 or a time-out.

    Attributes:
        never_processed: True if the server said that it did not begin the request
            (GOAWAY below its stream, REFUSED_STREAM), or if it was never sent.
    """

    def __init__(self, message: str, *, never_processed: bool = False) -> None:
        super().__init__(message)
        self.never_processed = never_processed


class DecodeError(RongCloudError):
    """The response is not as the service documents it: cut short, garbage, or of another shape."""


class DeadlineExceeded(RongCloudError, TimeoutError):  # noqa: N818  the name is part of the public face
    """The caller's deadline passed while the ID was still open.

    Attributes:
        phase: the step that the ID was waiting for when the deadline passed.
        deadline: the deadline, in seconds.
    """

    def __init__(self, phase: Phase, deadline: float) -> None:
        super().__init__(phase, deadline)
        self.phase: Phase = phase
        self.deadline = deadline

    def __str__(self) -> str:
        return f"no outcome within {self.deadline:g} s: {self.phase}"


class ClientClosed(RongCloudError):  # noqa: N818  the name is part of the public face
    """The client or stream is not open: not entered yet, or left already."""


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  it may be an object of any kind, half-made or broken
        text = object.__repr__(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"  # noqa: PLR2004  a line's width
