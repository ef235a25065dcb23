"""The interposer: a CRI proxy that decodes messages only where it changes them.

server        the gRPC server at the interposer's socket
relay         forwards every method of every service as bytes
calls         the seam between the relay and the interceptors
lifecycle     interceptors of the calls that environments need changed, named as the CRI's methods
restoration   the interceptor that refuses environments in restored pods
pulls         the interceptor that supplies the placeholder image
handlers      runtime handlers by other names
selection     which environment a pod asks for, for which containers, and how
adjustment    what an environment adds to a container's configuration
imageconfigs  the command and variables that an image itself defines
generations   the generation that a pod started with, kept for its restarts
tokens        a pod's FloxHub token, read from its volume
mutability    containers with a writable /nix
notices       warnings about annotations that have no effect
status        refusals as gRPC status
"""
