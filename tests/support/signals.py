"""The signals of OpenTelemetry, kept in memory."""

from importlib.metadata import version

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rongcloud_groups.otel import OpenTelemetry

VERSION = version("rongcloud-groups")


class Signals:
    """The SDK, which keeps in memory what would be exported."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        self.metering = MeterProvider([self._metrics])
        self.hook = OpenTelemetry(tracer_provider=self.tracing, meter_provider=self.metering)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def metrics(self) -> dict[str, Metric]:
        data = self._metrics.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        assert {(scope.scope.name, scope.scope.version) for scope in scopes} <= {("rongcloud_groups", VERSION)}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def histogram(self, name: str) -> HistogramDataPoint:
        (point,) = self.metrics()[name].data.data_points
        assert isinstance(point, HistogramDataPoint)
        return point

    def count(self, name: str) -> float:
        return self.counts(name)[0]

    def counts(self, *names: str) -> list[float]:
        metrics = self.metrics()
        points = [point for name in names for point in metrics[name].data.data_points]
        return [point.value for point in points if isinstance(point, NumberDataPoint)]

    def text(self) -> str:
        data = self._metrics.get_metrics_data()
        return (data.to_json() if data else "") + "".join(span.to_json() for span in self._spans.get_finished_spans())
