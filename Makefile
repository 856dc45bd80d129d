# make            build the programs into bin/
# make demo       a real build of this repository, end to end, here
# make cluster    three ZooKeeper nodes, three frontends, ten workers, and Ceph, here; a third of it all is killed
#                 (both with DISTCI_SANDBOX=lxc: each step in a container)
# make test       all tests
# make check      format, vet, staticcheck, man pages, shell scripts
# make fuzz       every fuzz test invents inputs for FUZZ (10s), guided by what they reach
# make bench      measurements, one JSON object a line; BENCH=regexp chooses
# make install    DESTDIR= PREFIX=

PREFIX  = /usr/local
GO      = go
BENCH   = .
FUZZ    = 10s
# distci-lxc links liblxc where its development files are, and else says how to
# get it.
LXC     = $(shell pkg-config --exists lxc 2>/dev/null && command -v cc >/dev/null && echo lxc)
# Where librados' header is, the programs that open the store are built with it
# once more, as NAME-ceph: NAME becomes that one if its store is in Ceph. All
# others, and those in containers, have no C in them.
CEPH    = $(shell echo '\#include <rados/librados.h>' | cc -E - >/dev/null 2>&1 && echo ceph)
STORERS = distci-buildctl distci-claim distci-frontend
PROGRAMS = distci-buildctl distci-checkout distci-claim distci-copy distci-exec distci-frontend distci-publish distci-status
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.7.0
SHELL_SCRIPTS = $(wildcard examples/*.sh examples/*/*.sh test/*.sh test/*/*.sh) .ci/run

.PHONY: all prepare demo cluster test test-static test-ceph check fuzz bench install clean

all:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ $(PROGRAMS:%=./cmd/%)
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/libexec/ ./cmd/distci-init ./cmd/distci-control ./cmd/distci-observe
	CGO_ENABLED=$(if $(LXC),1,0) $(GO) build -trimpath -tags='$(LXC)' -o bin/ ./cmd/distci-lxc
	$(if $(CEPH),set -e; for p in $(STORERS); do CGO_ENABLED=1 $(GO) build -trimpath -tags=ceph -o bin/$$p-ceph ./cmd/$$p; done)

demo: all
	sh examples/demo.sh

cluster: all
	bash examples/cluster.sh

# What the tests need, LXC's development files among it. Whoever asks for LXC
# above must not have been expanded before: make expands a whole recipe before
# it runs the first line of it. So this is a target, and the next one a make of
# its own.
prepare:
	sh test/prepare.sh

test: prepare
	$(MAKE) all
	$(MAKE) -j2 test-static $(if $(CEPH),test-ceph)

# The limit is for a test that hangs, on a machine that has much else to do.
test-static:
	CGO_ENABLED=0 $(GO) test -count=1 -timeout=30m ./...

test-ceph:
	CGO_ENABLED=1 $(GO) test -count=1 -timeout=30m -tags=ceph ./lib/store/rados

check: prepare
	@test -z "$$(gofmt -l cmd lib test)" || { gofmt -l cmd lib test; echo 'gofmt: the files above are not formatted'; exit 1; }
	$(GO) vet ./...
	$(if $(CEPH),$(GO) vet -tags=ceph ./lib/store/rados ./lib/cluster ./test/bench)
	$(if $(LXC),$(GO) vet -tags=lxc ./lib/sandbox/... ./cmd/distci-lxc)
	$(GO) run $(STATICCHECK) ./...
	@if command -v mandoc >/dev/null; then mandoc -Tlint -Wwarning man/*.[0-9]; else echo 'check: no mandoc, man pages not checked'; fi
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_SCRIPTS); else echo 'check: no shellcheck, scripts not checked'; fi

fuzz:
	sh test/fuzz.sh $(FUZZ) guided

bench: all
	@CGO_ENABLED=$(if $(CEPH),1,0) $(GO) run -tags='$(CEPH)' ./test/bench -run '$(BENCH)'

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man7 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 755 $(PROGRAMS:%=bin/%) bin/distci-lxc $(DESTDIR)$(PREFIX)/bin
	$(if $(CEPH),install -m 755 $(STORERS:%=bin/%-ceph) $(DESTDIR)$(PREFIX)/bin)
	install -d $(DESTDIR)$(PREFIX)/libexec/distci
	install -m 755 bin/libexec/distci-init bin/libexec/distci-control bin/libexec/distci-observe $(DESTDIR)$(PREFIX)/libexec/distci
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/distci-buildctl completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/distci-buildctl
	bin/distci-buildctl completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_distci-buildctl
	bin/distci-buildctl completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/distci-buildctl.fish
	for f in man/*.[0-9]; do install -m 644 $$f $(DESTDIR)$(PREFIX)/share/man/man$${f##*.}; done

clean:
	rm -rf bin
