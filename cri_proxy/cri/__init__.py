"""The CRI: generated messages, the table of its methods, the channel to the runtime.

`api_pb2` is generated from api/cri/runtime/v1/api.proto by hack/protos.sh and committed. `methods`
lists what can be called, `channels` connects to the runtime's socket with the right options, and
`runtime` asks the few questions that the proxy has of its own. Nothing here knows of environments.

gRPC's C core reads its settings from the process's environment when it is first imported, which
happens below this package and nowhere else; so they are set here.
"""

import os

# Workers are spawned, never forked, so the core need not be ready for it (nor stop for it).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Every GOAWAY of a draining peer would be a line in our log, in a form of its own.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
