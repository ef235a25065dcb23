"""Telemetry: what the program tells about itself, as lines, as traces and as metrics.

logs      lines, over the standard library's logging
spans     traces, over OpenTelemetry's API; nothing happens before `provider` is installed
provider  OpenTelemetry's SDK: what is sampled, sent and kept
ring      the last startups on disk
meters      metrics: counters, histograms and gauges under the names that are scraped
exposition  metrics as text for Prometheus

They share their words: a field of a line and an attribute of a span that mean the same are called
the same, and a line written inside a span carries its trace id.
"""
