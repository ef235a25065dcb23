"""containerd's own API, as much of it as importing one small image takes.

`api_pb2` is generated from api/containerd/api.proto by hack/protos.sh and committed. Nothing here
knows of the CRI, though both are served on one socket; a runtime that is not containerd answers
UNIMPLEMENTED, which is an error like any other to the caller.
"""
