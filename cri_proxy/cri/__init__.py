"""The CRI: generated messages, the table of its methods, and the channel to the runtime.

    methods   the methods that can be called, by path
    channels  connects to the runtime's socket with the right gRPC options
    runtime   the proxy's own queries of the runtime

`api_pb2` is generated from api/cri/runtime/v1/api.proto by hack/protos.sh and committed. Nothing
here knows of environments.
"""
