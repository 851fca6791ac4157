"""OpenTelemetry: spans and metrics of a client, ``GroupClient(…, hooks=[OpenTelemetry()])``.

Needs the extra ``otel``, which brings the API alone; the app brings the SDK and says where the signals go. The page
*Observability* lists them.

A span is made when its call or request has ended, however it ended. That of a call is within the caller's, with a link
to the span of each request that served it. A request serves many calls, so its span is a root.

Attributes follow the semantic conventions for HTTP clients where these have one. No signal has a group ID or an
error's message, which may hold one.
"""

import time
from asyncio import CancelledError
from collections import OrderedDict
from collections.abc import Sequence
from importlib import metadata

from rongcloud_groups._validation import extra_needed
from rongcloud_groups.errors import ServiceError
from rongcloud_groups.events import (
    BatchAbandoned,
    BatchAnswered,
    BatchFailed,
    BatchSent,
    CallEnded,
    Event,
    Retried,
    Throttled,
    TokenWaited,
)

try:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, MeterProvider, get_meter
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TracerProvider, get_tracer
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(extra_needed("rongcloud_groups.otel", "otel"), name=missing.name) from None

SCOPE = "rongcloud_groups"
HTTP_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; the bounds that the semantic conventions advise for the duration of HTTP requests."""
BATCH_SIZES = (1, 2, 5, 10, 20, 30, 40, 49)
FIRST_ERROR_STATUS = 400
REMEMBERED_REQUESTS = 1024
"""Requests whose spans a call that ends can be linked to."""

Attributes = dict[str, AttributeValue]


class OpenTelemetry:
    """A hook that makes spans and metrics of a client's events.

    Args:
        tracer_provider: where spans go; the global one by default.
        meter_provider: where metrics go; the global one by default.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        version = metadata.version("rongcloud-groups")
        self._tracer = get_tracer(SCOPE, version, tracer_provider=tracer_provider)
        meter = get_meter(SCOPE, version, meter_provider=meter_provider)

        def durations(name: str, description: str) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=HTTP_DURATIONS)

        self._request_duration = durations("http.client.request.duration", "Duration of HTTP client requests.")
        self._budget_wait = durations(f"{SCOPE}.budget.wait.duration", "Time that a request waited for its token.")
        self._call_duration = durations(f"{SCOPE}.call.duration", "Duration of a call of the client.")
        self._batch_size = meter.create_histogram(
            f"{SCOPE}.batch.size", "{group}", "Group IDs in a request.", explicit_bucket_boundaries_advisory=BATCH_SIZES
        )
        self._retries = meter.create_counter(f"{SCOPE}.retries", "{group}", "Group IDs that are sent again.")
        self._active = meter.create_up_down_counter(
            "http.client.active_requests", "{request}", "Number of active HTTP requests."
        )
        self._rate = meter.create_gauge(f"{SCOPE}.rate", "{request}/s", "Rate that the limiter lets through.")
        self._requests: OrderedDict[str, SpanContext] = OrderedDict()
        self._throttles = meter.create_counter(
            f"{SCOPE}.throttles", "{request}", "Requests that the service refused as over the rate limit."
        )

    def __call__(self, event: Event) -> None:
        match event:
            case TokenWaited():
                self._budget_wait.record(event.seconds)
                self._rate.set(event.rate)
            case BatchSent():
                self._batch_size.record(event.id_count, _server(event.host))
                self._active.add(1, _request(event.host))
            case BatchAnswered() | BatchFailed() | BatchAbandoned():
                self._request_ended(event)
            case Retried():
                self._retries.add(event.id_count)
            case Throttled():
                self._throttles.add(1)
                self._rate.set(event.rate)
            case CallEnded():
                self._call_ended(event)

    def _request_ended(self, event: BatchAnswered | BatchFailed | BatchAbandoned) -> None:
        request = _request(event.host)
        result, about = _result(event)
        self._active.add(-1, request)
        self._request_duration.record(event.seconds, request | result)
        about["http.request.header.x-request-id"] = [event.request_id]
        context = self._span("batch", event.seconds, request | result | about, kind=SpanKind.CLIENT)
        self._requests[event.request_id] = context
        if len(self._requests) > REMEMBERED_REQUESTS:
            self._requests.popitem(last=False)

    def _call_ended(self, event: CallEnded) -> None:
        attributes: Attributes = {f"{SCOPE}.call": event.call}
        counts: Attributes = {}
        if event.error is not None:
            attributes["error.type"] = _kind(event.error)
        else:
            counts = {f"{SCOPE}.{name}": getattr(event, name) for name in ("found", "missing", "failed")}
        self._call_duration.record(event.seconds, attributes)
        contexts = [self._requests[each] for each in event.request_ids if each in self._requests]
        self._span(event.call, event.seconds, attributes | counts, kind=SpanKind.INTERNAL, links=contexts)

    def _span(
        self, name: str, seconds: float, attributes: Attributes, *, kind: SpanKind, links: Sequence[SpanContext] = ()
    ) -> SpanContext:
        end = time.time_ns()
        span = self._tracer.start_span(
            f"{SCOPE}.{name}",
            context=Context() if kind is SpanKind.CLIENT else None,
            kind=kind,
            attributes=attributes,
            links=[Link(each) for each in links],
            start_time=end - round(seconds * 1e9),
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)
        return span.get_span_context()


def _result(event: BatchAnswered | BatchFailed | BatchAbandoned) -> tuple[Attributes, Attributes]:
    """The attributes of a request's end, and further ones for its span alone."""
    if isinstance(event, BatchAnswered):
        return {"http.response.status_code": 200}, {f"{SCOPE}.found": event.found, f"{SCOPE}.missing": event.missing}
    if isinstance(event, BatchAbandoned):
        return {"error.type": _kind(CancelledError())}, {}
    if not isinstance(event.error, ServiceError):
        return {"error.type": _kind(event.error)}, {f"{SCOPE}.failed": event.id_count}
    status = event.error.status
    kind = str(status) if status >= FIRST_ERROR_STATUS else _kind(event.error)
    about: Attributes = {f"{SCOPE}.failed": event.id_count, f"{SCOPE}.code": event.error.code}
    return {"error.type": kind, "http.response.status_code": status}, about


def _server(host: str) -> Attributes:
    address, _, port = host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", "")
    return {"server.address": address.strip("[]"), "server.port": int(port or 443)}


def _request(host: str) -> Attributes:
    return {"http.request.method": "POST", **_server(host)}


def _kind(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
