"""The CRI: generated messages, the table of its methods, the channel to the runtime.

`api_pb2` is generated from api/cri/runtime/v1/api.proto by hack/protos.sh and committed. `methods`
lists what can be called, `channels` connects to the runtime's socket with the right options, and
`runtime` asks the few questions that the proxy has of its own. Nothing here knows of environments.
"""
