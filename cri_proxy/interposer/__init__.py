"""The interposer: a complete CRI proxy that knows of messages only where it changes them.

Kubelet's calls come in at a socket (`sockets`, `server`) and reach the runtime through the relay
(`relay`), which carries every method of every service as bytes. The calls that environments need
changed have an interceptor each, named as the method; what an interceptor is given and must give
is in `calls`, and what becomes of its errors in `status`.
"""
