# make help lists the targets.
SHELL := /bin/bash
GOLANGCI_VERSION := v2.15.0
BIN := $(CURDIR)/bin
VERSION ?= 0.1.0-dev
LDFLAGS := -X main.version=$(VERSION)
ENDPOINT ?=
BENCH ?=
PROFILE ?= etcd
DISK ?=
ROUNDS ?= 20
HITS ?= 1

.DEFAULT_GOAL := help
.PHONY: help run build test lint conformance e2e e2e-etcd crash power crash-full disk hostile e2e-kubernetes e2e-storage build-kubernetes bench bench-smoke mutants sim clean

help: ## List the targets.
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Build shim and serve etcd's API on 127.0.0.1:2379, data in ./default.etcd.
	$(BIN)/shim

build: ## Build bin/shim.
	@mkdir -p $(BIN)
	go build -ldflags '$(LDFLAGS)' -o $(BIN)/shim ./cmd/shim

test: ## Run the root module's tests with the race detector, then 2,000 seeds of the simulator, which has one goroutine.
	go test -race -timeout 15m ./...
	go test -count=1 -timeout 10m -run 'TestSimulation|TestPlanted' -v ./backends/raftbolt/internal/replica

lint: $(BIN)/golangci-lint-$(GOLANGCI_VERSION) ## Run golangci-lint over every module, and see that go.mod and go.sum are tidy.
	@for m in $$(git ls-files ':(glob)**/go.mod'); do (cd $$(dirname $$m) && go mod tidy -diff) || { echo "$$m is not tidy"; exit 1; }; done
	$< run ./...
	@for m in $$(git ls-files ':(glob)e2e/**/go.mod' ':(glob)bench/**/go.mod'); do \
	  d=$$(dirname $$m); [ -n "$$(git ls-files "$$d/*.go" | head -1)" ] || continue; \
	  echo "lint $$d"; (cd $$d && $< run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

$(BIN)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(BIN)
	GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(BIN)/golangci-lint $@

conformance: ## Run the conformance suite on memory, etcd:// , raftbolt and real etcd; or on ENDPOINT=host:port with PROFILE=etcd|kubernetes.
ifeq ($(ENDPOINT),)
	go test -v -count=1 -timeout 10m -run '^(TestMemory|TestConformance)$$' ./conformance ./backends/raftbolt
	cd e2e/etcd && go test -v -count=1 -timeout 20m -run 'TestConformance' .
else
	go test -v -tags live -count=1 -timeout 20m ./conformance -run '^TestLive$$' -endpoint=$(ENDPOINT) -profile=$(PROFILE)
endif

e2e: e2e-etcd auth-matrix e2e-clients crash power-short uml-power disk hostile e2e-storage e2e-kubernetes oracle-full ## Run every end-to-end test: etcdctl, other clients, the fault rigs in their short forms, Kubernetes' storage suite, a control plane; the oracle's full run last, about an hour, whose parts that have passed are not run again.

e2e-etcd: ## Compare etcdctl against shim with etcdctl against etcd.
	cd e2e/etcd && go test -count=1 -timeout 20m -skip 'TestConformance|TestMutants|TestEtcdctlTable' .
	cd e2e/etcd && go test -count=1 -v -run TestEtcdctlTable .

.PHONY: e2e-clients
e2e-clients: ## Run the flows of other clients on shim and on etcd: clientv3 with its packages, processes that are killed, the JSON gateway, npm's etcd3 (needs node, npm).
	cd e2e/clients && go test -count=1 -timeout 20m ./...

crash: ## Kill shim ROUNDS times under a storm of load, and HITS times at each step of its durable path: 20 and once in CI.
	cd e2e && go test -count=1 -timeout 60m -v ./crash -rounds $(ROUNDS) -hits $(HITS) $(if $(SEED),-seed $(SEED))

crash-full: ## The same, 200 times and 5 times, and with planted faults that must be noticed. RESULTS=1 notes it in e2e/RESULTS.md.
	cd e2e && go test -count=1 -timeout 180m -v ./crash -rounds 200 -hits 5 -mutants $(if $(SEED),-seed $(SEED))

power: ## Replay power losses from recorded system calls (strace): SHORT=1 is CI's form; SHARD=i/n is a part; RESULTS=1 notes a full run in e2e/RESULTS.md.
	cd e2e && go test -count=1 -timeout 120m -v ./power $(if $(SHORT),,-full) $(if $(SHARD),-shard $(SHARD)) $(if $(SEED),-seed $(SEED))

.PHONY: power-short
power-short:
	$(MAKE) power SHORT=1

CUTS ?= 3
.PHONY: uml-power
uml-power: ## Cut the power of a User-Mode Linux machine under shim CUTS times: 3 in CI, 20 in the full run. RESULTS=1 notes it. Needs user-mode-linux, dmsetup, e2fsprogs.
	cd e2e && go test -count=1 -timeout 60m -v ./uml -cuts $(CUTS) $(if $(SEED),-seed $(SEED))

disk: ## Run shim on full, failing and slow disks; with strace, and the right to mount. DISK='-full -repeat 2' is the full run, RESULTS=1 notes it.
	cd e2e && go test -count=1 -timeout 60m -v ./disk $(DISK)

.PHONY: oracle oracle-full
oracle: ## Compare shim's answers with etcd's over random sequences of every RPC: 60,000 calls, at most 10 minutes, SEED=n. ORACLE='-sequence 7' and other flags, or '-script FILE', replay.
	cd e2e/etcd && go test -count=1 -timeout 30m -v ./oracle $(if $(SEED),-seed $(SEED)) $(ORACLE)

oracle-full: ## The same with 1,000,000 calls, and enough of each RPC, in 20 parts: parts that have passed are not run again. SHARD=i/n is one of n. RESULTS=1 notes it in e2e/RESULTS.md.
	cd e2e/etcd && go test -count=1 -timeout 600m -v ./oracle -full -tampers 40 $(if $(SHARD),-shard $(SHARD)) $(if $(SEED),-seed $(SEED)) $(ORACLE)

.PHONY: auth-matrix
auth-matrix: ## Ask every RPC in every form as every kind of caller, of shim and of etcd, and compare each answer.
	cd e2e/etcd && go test -count=1 -timeout 20m -v -run 'TestAuthMatrix|TestShownKeys' ./oracle -matrix

hostile: ## Treat shim badly: clients that never read, speak garbage, ask for too much. FULL=1 for the full sizes, RESULTS=1 notes it in e2e/RESULTS.md.
	cd e2e && go test -count=1 -timeout 60m -v ./hostile $(if $(FULL),-full)

build-kubernetes: ## Build kube-apiserver, -controller-manager, -scheduler, kubectl and kwok: 7 minutes of two cores when cold.
	cd e2e/kubernetes && GOWORK=off go run ./build

e2e-storage: ## Run Kubernetes' own storage suite on shim, with real etcd beside it.
	e2e/kubernetes/run.sh storage

e2e-kubernetes: ## Run a Kubernetes control plane on shim, 500 pods, killed in the middle.
	e2e/kubernetes/run.sh plane

bench: ## Measure shim and etcd side by side and write bench/RESULTS.md; BENCH='-row list -rounds 1' are further flags.
	cd bench && go run . -out RESULTS.md $(BENCH)

bench-smoke: ## Test the bench, and run each of its rows once on little data, to see that it runs and verifies.
	cd bench && go test -count=1 ./... && go run . -smoke

mutants: ## Plant one-line faults and see each caught by its case; SHARD=i/n plants every n-th.
	cd e2e/etcd && MUTANTS=$(SHARD) go test -count=1 -timeout 60m -run TestMutants -v .

.PHONY: flush-schedules fuzz
fuzz: ## Fuzz each of the 12 targets for FUZZTIME=300s, an hour of all; SHARD=i/n runs every n-th target. RESULTS=1 notes it in e2e/RESULTS.md.
	FUZZTIME=$(or $(FUZZTIME),300s) SHARD=$(or $(SHARD),1/1) .ci/fuzz

flush-schedules: ## Run SEEDS=1000 random sequences, from SEED=0 on, on members that flush, compact and restart at different times, against a naive model. RESULTS=1 notes it in e2e/RESULTS.md.
	.ci/flush-schedules $(or $(SEED),0) $(or $(SEEDS),1000)

.PHONY: docs
docs: ## Write the generated pages of docs: the tables of the API and of the flags.
	@mkdir -p docs
	go run ./cmd/shim flag-table > docs/FLAGS.md.new && mv docs/FLAGS.md.new docs/FLAGS.md
	go test -count=1 -run '^TestAPIPage$$' ./etcdapi -update

sim: ## Run the consensus simulator alone; SEED=n replays one seed with its transcript.
	go test -count=1 -timeout 60m -run 'TestSimulation|TestPlanted' -v ./backends/raftbolt/internal/replica $(if $(SEED),-seed $(SEED))

clean: ## Remove what was built.
	rm -rf bin bench/work bench/profiles e2e/*/bin e2e/*/*/bin
