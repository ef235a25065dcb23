"""The part of containerd's own API that is needed to import one small image.

    images  imports an image: blobs, then names

`api_pb2` is generated from api/containerd/api.proto by hack/protos.sh and committed. Nothing here
knows the CRI, although both are served on one socket; a runtime that is not containerd answers
UNIMPLEMENTED, which is an error like any other to the caller.
"""
