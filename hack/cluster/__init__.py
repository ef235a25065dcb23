"""A real Kubernetes on this host, with cri-proxy between kubelet and a private containerd."""
