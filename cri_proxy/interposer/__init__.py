"""The interposer: a CRI proxy that decodes messages only where it changes them.

server        the gRPC server on the interposer's socket
relay         forwards every method of every service as bytes
calls         the interface between the relay and the interceptors
lifecycle     interceptors of the calls that change for environments, named as the CRI's methods
restoration   the interceptor that refuses to restore pods with environments from checkpoints
pulls         the interceptor that supplies the placeholder image
handlers      runtime handlers under other names
selection     which environment a pod asks for, for which containers, and how
adjustment    what an environment adds to a container's configuration
imageconfigs  the command and variables that an image defines
generations   the generation that a pod started with, kept for its restarts
tokens        a pod's FloxHub token, read from its volume
mutability    containers with a writable /nix
notices       warnings about annotations and environments that have no effect
status        refusals as gRPC status
"""
