"""The fast lane: HTTP/2 frames from kubelet to the runtime, or to the interposer, as they are.

Every connection of kubelet's is paired with one to the runtime and, once a call needs it, one to
the interposer. Frames are forwarded, not terminated, and stream ids stay the same. A stream
belongs to the interposer if its `:path` is an interposed method, else to the runtime. From the
wire inwards:

    server         sockets that listen, connections that live, drain and close
    wire           one socket on the event loop: reads, writes, a bounded buffer
    link           three wires around one connection: back-pressure, time, ends
    connection     sans-I/O: three sides put together, bytes in, bytes out; back-pressure, ends
    downstream     what kubelet sends: passed on to upstream, or lent
    upstream       what the runtime sends: passed on to downstream
    interposition  the streams lent to the interposer, and our connection to it
    streams        the table of upstream's streams, and the bounds of all
    lending        their request DATA: what the interposer takes, what downstream believes
    answers        their response DATA: what downstream takes on each of them
    delivery       all response DATA: what downstream's connection window has room for
    headers        which blocks may be forwarded raw, and whose they are
    counting       calls by method and status, if somebody wants to know
    terms          SETTINGS: what each side announced, and what the others are told of it
    frames         the wire format

Downstream is kubelet, upstream is the runtime. Nothing here knows a message, and nothing imports
grpc or the interposer.
"""
