# SPDX-License-Identifier: Apache-2.0
#
# make demo   installs what is missing, fetches a kernel and runs the suites
# make test   all tests, those in VMs included
# make lint   golangci-lint and actionlint
# make api    how the exported API differs from that of the last release
# make bench  the speed figures, as ratios
# make dist     bin/kvmrun with the guest's tools and the suites beside it, in bin/kvmrun.d
# make install  the same below PREFIX: bin/kvmrun and lib/kvmrun, which need no Go and no checkout,
#               man pages and the completion of bash, zsh and fish in share

# The kernel of demo, test and bench: a file, or debian:VERSION.
# Ubuntu's archive has no Debian kernel: there it is the distribution's own.
KERNEL ?= $(shell . /etc/os-release 2>/dev/null; [ "$$ID" = ubuntu ] && echo ubuntu:6.8 || echo debian:6.12)
GO ?= go
GOTEST ?= $(GO) test

GOLANGCI_LINT_VERSION := v2.15.0
ACTIONLINT_VERSION := v1.7.12

# Prints the path of KERNEL.
FETCH = case '$(KERNEL)' in *:*) bin/kvmrun kernel fetch '$(KERNEL)';; *) realpath '$(KERNEL)';; esac

SOURCES := go.mod go.sum $(shell find cmd initramfs internal kconfigs suites vmtest -name '*.go' -o -name '*.config' -o -name '*.in' 2>/dev/null)

PREFIX ?= /usr/local
SHARE = $(DESTDIR)$(PREFIX)/share

.PHONY: demo test lint api bench dist install setup setup-test clean

demo: setup bin/kvmrun
# Ubuntu's 6.8 has no IPE.
	@bin/kvmrun run -kernel $(KERNEL) $(if $(filter ubuntu:%,$(KERNEL)),-allow-nothing)

test: setup-test bin/kvmrun
	@kernel=$$($(FETCH)) && \
	KVMRUN_KERNEL="$$kernel" $(GOTEST) -timeout 40m ./...

bench: setup bin/kvmrun
	@kernel=$$($(FETCH)) && \
	KVMRUN_KERNEL="$$kernel" $(GO) test -run '^$$' -bench . -benchtime 1x ./internal/runner ./internal/sweeprun

lint:
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION) run ./...
	cd examples/module && $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION) run --config ../../.golangci.yml ./...
	$(GO) run github.com/rhysd/actionlint/cmd/actionlint@$(ACTIONLINT_VERSION)

api:
	.ci/api

setup:
	@.ci/setup

setup-test:
	@.ci/setup test

# Without -buildvcs=false it fails in a checkout of another user's, as jobs in
# containers have it; no command prints the revision.
bin/kvmrun: $(SOURCES)
	$(GO) build -buildvcs=false -o $@ ./cmd/kvmrun

bin/kvmrun.d/build-id: bin/kvmrun
	$(GO) run ./internal/dist bin/kvmrun bin/kvmrun.d

dist: bin/kvmrun.d/build-id

install: dist
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib'
	install bin/kvmrun '$(DESTDIR)$(PREFIX)/bin/kvmrun'
	rm -rf '$(DESTDIR)$(PREFIX)/lib/kvmrun'
	cp -r bin/kvmrun.d '$(DESTDIR)$(PREFIX)/lib/kvmrun'
	bin/kvmrun man '$(SHARE)/man/man1'
	install -d '$(SHARE)/bash-completion/completions' '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
	bin/kvmrun completion bash >'$(SHARE)/bash-completion/completions/kvmrun'
	bin/kvmrun completion zsh >'$(SHARE)/zsh/site-functions/_kvmrun'
	bin/kvmrun completion fish >'$(SHARE)/fish/vendor_completions.d/kvmrun.fish'

clean:
	rm -rf bin
