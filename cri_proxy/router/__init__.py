"""The router: forwards kubelet's HTTP/2 frames to the runtime, or to the interposer.

Every connection of kubelet is paired with one to the runtime and, once a call needs it, one to the
interposer. Frames are forwarded, HTTP/2 is not terminated, and stream ids stay the same. A stream
goes to the interposer if its `:path` is an interposed method, otherwise to the runtime. From the
sockets inwards:

    server           listening sockets; connections that are served, drained and closed
    link             three socket transports around one connection: back-pressure, timeouts, ends
    sockettransport  one socket on the event loop: reads, writes, a bounded buffer
    connection       sans I/O: the three sides together, bytes in, bytes out
    downstream       what kubelet sends: forwarded to upstream, or interposed
    upstream         what the runtime sends: forwarded to downstream
    interposition    the interposed calls, and our connection to the interposer
    streams          the table of upstream's streams, and the limits of all
    requestflow      flow control of interposed calls' requests
    responseflow     flow control of responses: downstream's windows, shared by two senders
    headers          header blocks: which may be forwarded unchanged, and which method they name
    counting         calls by method and status
    http2settings    SETTINGS: what each side announced, and what is forwarded of it
    frames           the frame format

Downstream is kubelet, upstream is the runtime. Nothing here knows CRI messages, and nothing imports
grpc or the interposer.
"""
