"""Tracing and metering of calls: what a pod's startup waits for.

tracer     spans around each call of a pod's lifecycle and around its forward to the runtime
startups   which trace a call belongs to, from a pod's sandbox to its last container's start
stops      a short trace for the calls that stop and remove a pod
subjects   which pod and container a call is about, by its payload
metering   call metrics: the relay that counts every call and times those with an interceptor
"""
