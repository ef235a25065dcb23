"""What the standard library lacks. Nothing here knows of pods, environments or the CRI.

job           one kind of work for workers, and the types of what it carries
codec         typed messages as JSON
pipe          messages between the daemon and a worker, in frames
worker        the worker's side: jobs in threads
workers       the daemon's side: a pool of worker processes
child         starts, supervises and ends the daemon's programs
logger        structured log lines
meters        metrics: counters, histograms and gauges
timings       when the parts of a job began and ended
eventloop     an asyncio event loop in a thread of its own
singleflight  work of one key runs once for all callers
scheduling    the processor and the disk are left to others
durable       files that survive a power failure
locks         locks between threads and processes, which end with their holder
exchange      two paths of a file system swapped atomically
mounts        mounting and unmounting
sockets       listening at unix sockets
endpoint      a small HTTP server for metrics and health
notify        readiness for systemd
proxies       HTTP proxies from the environment
certificates  the node's CA bundle
redaction     secrets are hidden in texts
nixbase32     Nix's base 32
suggestions   which known name was meant
"""
