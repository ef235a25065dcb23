"""Real parts to test against: a private containerd, pods, images, caches, a local FloxHub."""
