"""Telemetry: what the program tells about itself, as lines (`logs`) and as traces (`spans`).

Both are thin: `logs` over the standard library's logging, `spans` over OpenTelemetry's API. They
share their words: a field of a line and an attribute of a span that mean the same are called the
same, and a line written inside a span carries its trace id. `setup` of each is called once, by the
program's entry.
"""
