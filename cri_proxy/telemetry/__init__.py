"""Telemetry: what the program reports about itself, as logs, traces and metrics.

logs        structured log lines, over the standard library's logging
spans       traces; nothing is recorded until `provider` installs a queue
sampling    which traces are sent
provider    connects spans to the queue, the ring and the sender
spanqueue   ended spans on their way out of the event loop
encoding    spans as JSON
ring        the last startups on disk
sender      the pipe to the span exporter
exporter    the span exporter program: sends spans by OpenTelemetry's SDK
exposition  metrics (`lib.meters`) as text for Prometheus

They share their words: a log field and a span attribute that mean the same have the same name, and
a line logged within a span carries its trace id.
"""
