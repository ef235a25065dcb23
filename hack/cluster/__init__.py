"""A real Kubernetes on this one host, with cri-proxy between kubelet and a private containerd."""
