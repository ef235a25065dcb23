"""HTTP/1.1 to binary caches and peers: connections that stay open, requests, responses.

messages     requests as bytes, and what the head of a response means
incoming     an incremental parser of one response
exchanges    one request on its connection, and the response as it arrives
dialing      new connections: TCP, a proxy's tunnel, TLS
forwarding   requests that an HTTP proxy forwards
connections  one GET, with retries, redirects and reused connections
"""
