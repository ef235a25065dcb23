"""The HTTP/1.1 client of the program: binary caches, peers, FloxHub and checks.

client       requests from coroutines and threads; redirects
pool         open connections to all origins; late responses, stale connections, silence
dialing      new connections: TCP, a proxy or its tunnel, TLS
connections  one connection and the exchange on it; bodies in memory and as streams
incoming     an incremental parser of one response
messages     requests as bytes, and the heads of responses
statuses     what an HTTP status means to a caller
failures     why a request has no usable response
"""
