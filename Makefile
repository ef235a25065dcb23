# What one does with this repository. Each target installs first what it needs and this machine lacks.
#   make test ARGS="-k sweeping -x"     hands arguments on
#   make test WORKERS=0 ARGS=--pdb      runs one test after the other, as a debugger needs it
SHELL := /bin/bash
PYTHON := .venv/bin/python
ARGS ?=
# How many tests run at once. They wait most of the time, for pods and for programs to start; 0 is one after the other.
WORKERS ?= 2
AT_ONCE := -n $(WORKERS) --dist worksteal
# Where spelling and the words of hack/codespell.txt are checked.
PROSE := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs manifests .github .ci Makefile renovate.json \
	cri_proxy/settings hack
TRAFFIC := tests/daemon tests/e2e/test_ordinary_pods.py tests/e2e/test_environment_in_a_pod.py

.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run a pod in an environment, on this machine, start to finish (as root)
	@hack/prerequisites.sh demo
	$(PYTHON) -m hack.demo $(ARGS)

.PHONY: test
test: ## run all tests; as root also those that run pods
	@hack/prerequisites.sh test
	$(PYTHON) -m pytest $(AT_ONCE) $(ARGS)

.PHONY: alone
alone: ## run the tests of kubelet's traffic once more, with the interposer alone (as root)
	@hack/prerequisites.sh test
	TESTBED_FRONT=interposer $(PYTHON) -m pytest $(AT_ONCE) $(TRAFFIC) $(ARGS)

.PHONY: soak
soak: ## put a million calls through the router, the runtime restarting, for an hour
	@hack/prerequisites.sh test
	$(PYTHON) -m hack.bench.relay.soak $(ARGS)

.PHONY: fuzz
fuzz: ## put a million hostile connections through the core of the router
	@hack/prerequisites.sh
	$(PYTHON) -m hack.testbed.hostile $(or $(ARGS),1000000)

.PHONY: conformance
conformance: ## try other clients on containerd through the router: h2spec, grpc-go of old, crictl, ctr
	@hack/prerequisites.sh test
	$(PYTHON) -m hack.bench.relay.conformance $(ARGS)

.PHONY: e2e-kubernetes
e2e-kubernetes: dist ## run pods, and install the release, on a real Kubernetes, built here the first time (as root)
	@hack/prerequisites.sh cluster
	$(PYTHON) -m hack.cluster.programs
	$(PYTHON) -m pytest -m kubernetes tests/kubernetes $(ARGS)

.PHONY: verify
verify: ## check style, types, floors, generated files, shell scripts and spelling
	@hack/prerequisites.sh verify
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	hack/protos.sh --check
	find .ci/run hack cri_proxy manifests -type f \( -name '*.sh' -o -path .ci/run \) -exec shellcheck {} +
	$(MAKE) --no-print-directory spelling

.PHONY: spelling
spelling: ## check spelling, and the words of hack/codespell.txt
	@hack/prerequisites.sh
	.venv/bin/codespell $(PROSE)

.PHONY: protos
protos: ## generate messages from api/
	@hack/prerequisites.sh
	hack/protos.sh

.PHONY: dist
dist: ## build the release into dist/: tarball, wheel, checksums, list of parts
	@hack/prerequisites.sh
	$(PYTHON) -m hack.dist $(ARGS)

.PHONY: audit-parts
audit-parts: ## compare the Debian packages that the release bundles with Debian's security archive
	@hack/prerequisites.sh
	$(PYTHON) -m hack.dist.audit

.PHONY: kind
kind: ## run the demo pods on kind, with the release in dist/ (needs Docker, kind, kubectl; see hack/kind.sh)
	hack/kind.sh up
	hack/kind.sh demo
	hack/kind.sh down

.PHONY: install-test
install-test: dist ## install, upgrade and uninstall the release on machines with a systemd of their own (as root)
	@hack/prerequisites.sh install
	$(PYTHON) -m pytest -m systemd tests/install $(ARGS)

.PHONY: bench
bench: ## measure against the figures to reach (as root)
	@hack/prerequisites.sh test
	$(PYTHON) -m hack.bench $(ARGS)

.PHONY: critest
critest: ## run Kubernetes' tests of a runtime with and without the proxy: the same must pass (as root)
	@hack/prerequisites.sh test
	@hack/critools.sh >/dev/null
	$(PYTHON) -m hack.critest $(ARGS)

.PHONY: clean
clean: ## remove what was installed, built or cached here
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find cri_proxy hack tests -name __pycache__ -prune -exec rm -rf {} +
