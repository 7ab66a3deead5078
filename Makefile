# mbus: make help lists the targets.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# The version that -version prints, the same in all commands. Without git it is empty, and the
# commands print the version that Go recorded.
VERSION = $(shell git describe --always --dirty 2>/dev/null)
LDFLAGS = -X mbus/internal/shared/command.version=$(VERSION)

# The systems that make check builds and vets for, besides the one that it runs on.
SYSTEMS = linux/386 darwin/arm64 freebsd/amd64 windows/amd64

# The forwarder is a module of its own, so that nothing else needs the client library of NATS.
# Each target that checks or tests covers both modules.
FORWARDER = cmd/forwarder

# How long make torture fuzzes each target.
FUZZTIME = 10m

# The directories of make install. DESTDIR, which packagers set, precedes each of them. systemd
# looks for files below /usr/lib, /usr/local/lib and /etc, so any other PREFIX needs /etc.
PREFIX = /usr/local
BIN = $(PREFIX)/bin
SYSTEMD = $(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX)/lib,/etc)
UNITS = $(SYSTEMD)/systemd/system
SYSUSERS = $(SYSTEMD)/sysusers.d
LOGROTATE = /etc/logrotate.d
MAN = $(PREFIX)/share/man

# This is "forwarder" if make forwarder has built it. Then make install installs it too.
BUILT = $(notdir $(wildcard build/forwarder))

# Runs a command that ends with the path of the installed logrotate file, unless the operator has
# changed that file.
define logrotate
@file="$(DESTDIR)$(LOGROTATE)/mbus"; \
	if test -f "$$file" && ! cmp -s build/package/mbus.logrotate "$$file"; then \
		echo "$@: $$file differs from build/package/mbus.logrotate, left as it is" >&2; \
	else \
		echo $(1) "$$file"; $(1) "$$file"; \
	fi
endef

.PHONY: all forwarder help demo install uninstall test check bench torture clean

all: ## build the commands into build/ (the default)
	go build -ldflags '$(LDFLAGS)' -o build/ ./cmd/broker ./cmd/producer ./cmd/consumer

forwarder: ## build the forwarder into build/ (downloads the client library of NATS)
	go -C $(FORWARDER) build -ldflags '$(LDFLAGS)' -o ../../build/ .

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: all ## start a broker, send one message, show the log, receive it, stop
	@set -e; log=$$(mktemp); follower=; \
	./build/broker -pport 0 -interval 1s -log "$$log" & broker=$$!; \
	trap 'kill $$broker $$follower 2>/dev/null || true; rm -f "$$log"' EXIT; \
	await() { \
		for try in $$(seq 100); do if grep -q "$$1" "$$log"; then return; fi; sleep 0.1; done; \
		echo "demo: the log has no line with $$1" >&2; exit 1; \
	}; \
	echo '$$ ./build/broker -log mbus.log'; \
	tail -n +1 -f "$$log" & follower=$$!; \
	await 'listening on'; \
	port=$$(sed -n 's/.*listening on .*://p' "$$log"); \
	echo "$$ ./build/producer -port $$port -topic orders -message 'look ma! a new order'"; \
	./build/producer -port $$port -topic orders -message 'look ma! a new order'; \
	await "Received new message from topic 'orders': 'look ma! a new order'$$"; \
	sleep 0.5; \
	echo "$$ ./build/consumer -log mbus.log -topic orders -count 1"; \
	./build/consumer -log "$$log" -topic orders -count 1; \
	kill -TERM $$broker; wait $$broker

install: ## install what make has built: PREFIX=/usr/local, DESTDIR for packagers
	@case "$(PREFIX)" in [!/]*|*[!A-Za-z0-9/._+-]*|'') \
		echo "install: PREFIX=$(PREFIX):" \
			"must be an absolute path of letters, digits and /._+-" >&2; exit 1;; \
	esac
	@for name in broker producer consumer; do test -f build/$$name || { \
		echo "install: build/$$name is missing: run make first" >&2; exit 1; }; \
	done
	install -d "$(DESTDIR)$(BIN)"
	@set -e; for name in broker producer consumer $(BUILT); do \
		file="$(DESTDIR)$(BIN)/mbus-$$name"; \
		install -m 755 build/$$name "$$file.new"; mv -f "$$file.new" "$$file"; echo "$$file"; \
	done
	install -d "$(DESTDIR)$(MAN)/man1" "$(DESTDIR)$(MAN)/man8"
	@set -e; for page in mbus-producer.1 mbus-consumer.1 mbus-broker.8 $(BUILT:%=mbus-%.8); do \
		install -v -m 644 build/package/man/$$page "$(DESTDIR)$(MAN)/man$${page#*.}/$$page"; \
	done
ifeq ($(shell uname),Linux)
	install -d "$(DESTDIR)$(UNITS)" "$(DESTDIR)$(SYSUSERS)" "$(DESTDIR)$(LOGROTATE)" \
		"$(DESTDIR)/etc/mbus"
	@set -e; for unit in mbus-broker mbus-consumer@ $(BUILT:%=mbus-%); do \
		file="$(DESTDIR)$(UNITS)/$$unit.service"; \
		install -v -m 644 build/package/$$unit.service "$$file"; \
		sed -i 's|/usr/local/bin/mbus-|$(BIN)/mbus-|' "$$file"; \
	done
	install -m 644 build/package/mbus.sysusers "$(DESTDIR)$(SYSUSERS)/mbus.conf"
	$(call logrotate,install -m 644 build/package/mbus.logrotate)
endif

uninstall: ## remove what make install has installed, with the same PREFIX and DESTDIR
	rm -f "$(DESTDIR)$(BIN)/mbus-broker" "$(DESTDIR)$(BIN)/mbus-producer"
	rm -f "$(DESTDIR)$(BIN)/mbus-consumer" "$(DESTDIR)$(BIN)/mbus-forwarder"
	rm -f "$(DESTDIR)$(MAN)/man1/mbus-producer.1" "$(DESTDIR)$(MAN)/man1/mbus-consumer.1"
	rm -f "$(DESTDIR)$(MAN)/man8/mbus-broker.8" "$(DESTDIR)$(MAN)/man8/mbus-forwarder.8"
	rm -f "$(DESTDIR)$(UNITS)/mbus-broker.service" "$(DESTDIR)$(UNITS)/mbus-consumer@.service"
	rm -f "$(DESTDIR)$(UNITS)/mbus-forwarder.service"
	rm -f "$(DESTDIR)$(SYSUSERS)/mbus.conf"
	$(call logrotate,rm -f)
	@rmdir "$(DESTDIR)/etc/mbus" 2>/dev/null || true # it stays with the operator's files

test: ## run every test
	go test ./...
	go -C $(FORWARDER) test ./...

check: ## check format, vet for every system, lint, and run every test with the race detector
	@unformatted=$$(gofmt -l cmd internal); \
	test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	go vet ./...
	go -C $(FORWARDER) vet ./...
	@set -e; for system in $(SYSTEMS); do \
		export GOOS=$${system%/*} GOARCH=$${system#*/}; \
		echo "GOOS=$$GOOS GOARCH=$$GOARCH go build ./... && go vet ./..."; \
		for module in . $(FORWARDER); do \
			go -C $$module build -o /dev/null ./...; go -C $$module vet ./...; \
		done; \
	done
	go run $(STATICCHECK) ./...
	go -C $(FORWARDER) run $(STATICCHECK) ./...
	go run $(ACTIONLINT) -shellcheck= -pyflakes= .github/workflows/*.yml
	@if why=$$(go build -race net 2>&1); then \
		echo 'go test -race ./...'; go test -race ./... && go -C $(FORWARDER) test -race ./...; \
	else \
		echo "make check leaves out the race detector, which needs cgo and a C compiler:" >&2; \
		echo "$$why" | tail -n 1 >&2; \
		echo 'go test ./...'; go test ./... && go -C $(FORWARDER) test ./...; \
	fi
	GOMAXPROCS=1 go test -count=1 ./...
	GOMAXPROCS=1 go -C $(FORWARDER) test -count=1 ./...

bench: ## measure mbus beside floors, and beside servers that are on the PATH (about 8 minutes)
	go test -run '^$$' -bench . -benchtime 0.2s ./internal/...
	MBUS_BENCH=1 go test -count=1 -v -run 'TestRatios|TestConsumerRatios|TestPeers' ./cmd
	MBUS_BENCH=1 go -C $(FORWARDER) test -count=1 -v -timeout 30m -run 'TestRatios|TestMemory' .

torture: ## run the long campaign of faults and hostile input (more than an hour)
	MBUS_TORTURE=1 go test -count=1 -v -timeout 60m ./cmd ./internal/broker ./internal/shared/follow
	MBUS_TORTURE=1 go -C $(FORWARDER) test -count=1 -v -timeout 60m .
	go test -run '^$$' -fuzz FuzzDecode -fuzztime $(FUZZTIME) ./internal/shared/decoder
	go test -run '^$$' -fuzz FuzzConnection -fuzztime $(FUZZTIME) ./internal/broker
	go test -run '^$$' -fuzz FuzzBroker -fuzztime $(FUZZTIME) ./internal/broker
	go test -run '^$$' -fuzz FuzzUnescape -fuzztime $(FUZZTIME) ./internal/shared/escape
	go test -run '^$$' -fuzz FuzzRoundTrip -fuzztime $(FUZZTIME) ./internal/consumer
	go -C $(FORWARDER) test -run '^$$' -fuzz FuzzSubject -fuzztime $(FUZZTIME) .

clean: ## remove the built commands
	rm -f build/broker build/producer build/consumer build/forwarder
