"""The CRI: generated messages, the table of its methods, and the channel to the runtime.

<<<<<<< HEAD
    methods   the methods that can be called, by path
    channels  connects to the runtime's socket with the right gRPC options
    runtime   the proxy's own queries of the runtime

`api_pb2` is generated from api/cri/runtime/v1/api.proto by hack/protos.sh and committed. Nothing
here knows of environments.

gRPC's C core reads its settings from the process's environment when it is first imported, which
only happens below this package; so they are set here.
"""

import os

# Workers are spawned, never forked, so the core need not prepare for forks.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Otherwise every GOAWAY of a draining peer is a line in our log, in another format.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
=======
`api_pb2` is generated from api/cri/runtime/v1/api.proto by hack/protos.sh and committed. `methods`
lists what can be called, `channels` connects to the runtime's socket with the right options, and
`runtime` asks the few questions that the proxy has of its own. Nothing here knows of environments.
"""
>>>>>>> 9f2c89f (cri: set gRPC's environment before any module imports it)
