"""Tracing and metering of calls: what a pod's startup waits for.

tracer     a span around each call of a pod's lifecycle and around what goes to the runtime
startups   which trace a call belongs to, from a pod's sandbox to its last container's start
stops      one short trace for the calls that a pod ends with
subjects   which pod and container a call is about, read from its payload
metering   call metrics: the relay that counts every call and times those with an interceptor
"""
