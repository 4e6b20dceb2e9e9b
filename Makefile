# Every target can be run again at any time. Nothing here needs a network service, except what fetches the
# linters (once, from the Go module proxy) and, on a machine that has never built this, the modules of go.sum.

SHELL   := /bin/bash
GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
BIN     := bin/tarvm

# The go tool's ./... passes over testdata; the programs there are named one by one.
AUX     := $(shell find testdata -name '*.go' | sed -e 's|/[^/]*$$||' -e 's|^|./|' | sort -u)
PKGS    := ./... $(AUX)

TESTFLAGS ?=
TIMEOUT   ?= 15m
FUZZTIME  ?= 10s

# Tests make much garbage in small heaps: collecting it at the fourth part of the usual rate saves a third of their time.
# Other programs that tests ask sleep more than they work: so more of a package's tests run than there are processors.
# A program with the race detector sleeps a second before it ends, and scripts start hundreds.
TESTENV   := GOGC=$${GOGC:-400} GOMEMLIMIT=$${GOMEMLIMIT:-1GiB}
RACEENV   := CGO_ENABLED=1 GORACE="atexit_sleep_ms=0 $$GORACE"
PARALLEL  ?= 4

.DEFAULT_GOAL := build
.PHONY: build test race fuzz lint cross demo boot bench vm clients clean help go tools

build: go ## build bin/tarvm, static, for this machine
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN) ./cmd/tarvm

test: go tools ## run all tests; TARVM_REQUIRE_TOOLS=1 to fail where a tool is missing
	$(TESTENV) $(GO) test -timeout $(TIMEOUT) -parallel $(PARALLEL) $(TESTFLAGS) $(PKGS)

race: go tools ## run the tests of what runs at the same time with the race detector (needs a C compiler)
	$(TESTENV) $(RACEENV) $(GO) test -race -timeout $(TIMEOUT) -parallel $(PARALLEL) $(TESTFLAGS) $$(GO=$(GO) .ci/concurrent $(PKGS))

fuzz: go ## run every fuzz target for FUZZTIME (10s), at most two minutes in all
	GO=$(GO) FUZZTIME=$(FUZZTIME) .ci/fuzz

lint: go ## go vet, gofmt, staticcheck, golangci-lint, govulncheck; fetches them once
	GO=$(GO) .ci/lint $(PKGS)

cross: go ## build and vet for Linux, macOS and Windows on amd64 and arm64
	GO=$(GO) .ci/cross $(PKGS)

demo: build ## pack, change, pack an increment, verify, restore and compare a VM directory made here
	TARVM=$(BIN) testdata/demo.sh

boot: build ## a Debian goes from form to form and starts at each stop under QEMU; VM, ACCEL, STOPS, WAIT
	TARVM=$(BIN) testdata/boot/run.sh

vm: go ## make the bench's VM in VM (/var/tmp/vm), a real Debian where this machine can
	testdata/vm/make.sh "$${VM:-/var/tmp/vm}"

bench: build ## compare with other tools, side by side, as a Markdown table; RUNS, ONLY, SLOW, VM
	TARVM=$(BIN) testdata/bench/run.sh

clients: go tools ## have the real importers judge every machine and form; sets them up in TARVM_CLIENTS_DIR (/var/tmp/tarvm-clients), as root
	.ci/clients "$${TARVM_CLIENTS_DIR:-/var/tmp/tarvm-clients}"
	export TARVM_CLIENTS=all TARVM_CLIENTS_DIR="$${TARVM_CLIENTS_DIR:-/var/tmp/tarvm-clients}"; \
	[ -n "$$TARVM_VBOX" ] || [ ! -d "$$TARVM_CLIENTS_DIR/sid" ] || export TARVM_VBOX="$$TARVM_CLIENTS_DIR/sid"; \
	[ ! -d "$$TARVM_VBOX" ] || export TARVM_VBOXMANAGE="chroot $$TARVM_VBOX /usr/lib/virtualbox/VBoxManage"; \
	$(GO) test -timeout 60m $(TESTFLAGS) ./formats/machine ./formats/vbox ./formats/vmx ./formats/libvirt ./formats/xl ./formats/qemu ./ovf/...

clean: ## remove what was built here
	rm -rf bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

go:
	@command -v $(GO) >/dev/null || { echo "missing: $(GO) (Go $$(awk '$$1 == "go" { print $$2 }' go.mod) or newer, https://go.dev/dl)" >&2; exit 1; }

tools:
	@.ci/tools --check
