# Development commands. Each target installs missing prerequisites first.
#   make test ARGS="-k sweeping -x"     passes arguments to pytest
#   make test WORKERS=0 ARGS=--pdb      runs one test at a time, for debuggers
SHELL := /bin/bash
PYTHON := .venv/bin/python
ARGS ?=
# Number of concurrent tests, which mostly wait for pods and programs to start; 0 runs one test at a time.
WORKERS ?= 2
AT_ONCE := -n $(WORKERS) --dist worksteal
# Where spelling and the words of hack/codespell.txt are checked; words that tests misspell on purpose.
PROSE := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs manifests .github .ci renovate.json \
	hack cri_proxy
MISSPELLED := stroe,enviroment,relize,chek
TRAFFIC := tests/daemon tests/e2e/test_ordinary_pods.py tests/e2e/test_environment_in_a_pod.py

.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run pods in an environment on this machine, from start to finish (as root)
	@hack/prerequisites.sh demo
	$(PYTHON) -m hack.demo $(ARGS)

.PHONY: test
test: ## run all tests; those with pods only as root
	@hack/prerequisites.sh test
	$(PYTHON) -m pytest $(AT_ONCE) $(ARGS)

.PHONY: alone
alone: ## repeat the tests of kubelet's traffic with the interposer alone (as root)
	@hack/prerequisites.sh test
	TESTBED_FRONT=interposer $(PYTHON) -m pytest $(AT_ONCE) $(TRAFFIC) $(ARGS)

.PHONY: soak
soak: ## send a million calls through the router in an hour, while the runtime restarts
	@hack/prerequisites.sh test
	$(PYTHON) -m hack.bench.relay.soak $(ARGS)

.PHONY: fuzz
fuzz: ## send a million hostile connections through the core of the router
	@hack/prerequisites.sh
	$(PYTHON) -m hack.testbed.hostile $(or $(ARGS),1000000)

.PHONY: conformance
conformance: ## compare other clients directly and through the router: h2spec, an old grpc-go, crictl, ctr
	@hack/prerequisites.sh test
	$(PYTHON) -m hack.bench.relay.conformance $(ARGS)

.PHONY: e2e-kubernetes
e2e-kubernetes: dist ## run pods, and install the release, on a Kubernetes that is built from source once (as root)
	@hack/prerequisites.sh cluster
	$(PYTHON) -m hack.cluster.programs
	$(PYTHON) -m pytest -m kubernetes tests/kubernetes $(ARGS)

.PHONY: verify
verify: ## check style, types, floors, rooms, generated files, shell scripts and spelling
	@hack/prerequisites.sh verify
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	hack/protos.sh --check
	find .ci/run hack cri_proxy manifests -type f \( -name '*.sh' -o -path .ci/run \) -exec shellcheck {} +
	$(PYTHON) -m hack.house
	$(MAKE) --no-print-directory spelling

.PHONY: spelling
spelling: ## check spelling, and the words of hack/codespell.txt
	@hack/prerequisites.sh
	.venv/bin/codespell $(PROSE)
	.venv/bin/codespell --ignore-words-list $(MISSPELLED) tests

.PHONY: protos
protos: ## generate messages from api/
	@hack/prerequisites.sh
	hack/protos.sh

.PHONY: dist
dist: ## build the release into dist/: tarball, wheel, checksums, list of parts (SBOM)
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
install-test: dist ## install, upgrade and uninstall the release on separate machines with systemd (as root)
	@hack/prerequisites.sh install
	$(PYTHON) -m pytest -m systemd tests/install $(ARGS)

.PHONY: bench
bench: ## run the benchmarks and compare them with their targets (as root)
	@hack/prerequisites.sh test
	$(PYTHON) -m hack.bench $(ARGS)

.PHONY: critest
critest: ## compare Kubernetes' runtime tests with and without the proxy (as root)
	@hack/prerequisites.sh test
	@hack/critools.sh >/dev/null
	$(PYTHON) -m hack.critest $(ARGS)

.PHONY: clean
clean: ## delete everything that was installed, built or cached in this directory
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find cri_proxy hack tests -name __pycache__ -prune -exec rm -rf {} +
