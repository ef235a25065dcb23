"""cri-proxy: imageless Kubernetes on any node.

A daemon between kubelet and the container runtime. docs/architecture.md shows the floors; each
package's docstring tells its part of the story.
"""

__version__ = "0.1.0"
