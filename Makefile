# mbus: make help lists the targets.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ACTIONLINT = github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# The systems that make check compiles and vets for, besides its own.
SYSTEMS = linux/386 darwin/arm64 freebsd/amd64 windows/amd64

# How long make torture fuzzes each target.
FUZZTIME = 10m

.PHONY: all help demo test check bench torture clean

all: ## build the commands into build/ (the default)
	go build -o build/ ./cmd/broker ./cmd/producer ./cmd/consumer

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: all ## start a broker, send one message, show the log, receive it, stop
	@set -e; log=$$(mktemp); follower=; \
	./build/broker -pport 0 -interval 1s 2>"$$log" & broker=$$!; \
	trap 'kill $$broker $$follower 2>/dev/null || true; rm -f "$$log"' EXIT; \
	await() { \
		for try in $$(seq 100); do if grep -q "$$1" "$$log"; then return; fi; sleep 0.1; done; \
		echo "demo: the log has no line with $$1" >&2; exit 1; \
	}; \
	echo '$$ ./build/broker'; \
	tail -n +1 -f "$$log" & follower=$$!; \
	await 'listening on'; \
	port=$$(sed -n 's/.*listening on .*://p' "$$log"); \
	echo "$$ ./build/producer -port $$port -topic orders -message 'look ma! a new order'"; \
	./build/producer -port $$port -topic orders -message 'look ma! a new order'; \
	await "Received new message from topic 'orders': 'look ma! a new order'$$"; \
	sleep 0.5; \
	echo "$$ ./build/consumer -log \$$log -topic orders -count 1"; \
	./build/consumer -log "$$log" -topic orders -count 1; \
	kill -TERM $$broker; wait $$broker

test: ## run every test
	go test ./...

check: ## check format, vet for every system, lint, and run every test with the race detector
	@unformatted=$$(gofmt -l cmd internal); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	go vet ./...
	@set -e; for system in $(SYSTEMS); do \
		export GOOS=$${system%/*} GOARCH=$${system#*/}; \
		echo "GOOS=$$GOOS GOARCH=$$GOARCH go build ./... && go vet ./..."; \
		go build ./...; go vet ./...; \
	done
	go run $(STATICCHECK) ./...
	go run $(ACTIONLINT) -shellcheck= -pyflakes= .github/workflows/*.yml
	@if why=$$(go build -race net 2>&1); then \
		echo 'go test -race ./...'; go test -race ./...; \
	else \
		echo "make check leaves out the race detector, which needs cgo and a C compiler: $$(echo "$$why" | tail -n 1)" >&2; \
		echo 'go test ./...'; go test ./...; \
	fi
	GOMAXPROCS=1 go test -count=1 ./...

bench: ## measure, beside floors; the table of ratios comes last (about 4 minutes)
	go test -run '^$$' -bench . -benchtime 0.2s ./internal/...
	MBUS_BENCH=1 go test -count=1 -v -run 'TestRatios|TestConsumerRatios' ./cmd

torture: ## the long campaign of faults and hostile input, with its figures (about 35 minutes)
	MBUS_TORTURE=1 go test -count=1 -v -timeout 30m ./cmd ./internal/broker ./internal/shared/follow
	go test -run '^$$' -fuzz FuzzDecode -fuzztime $(FUZZTIME) ./internal/shared/decoder
	go test -run '^$$' -fuzz FuzzConnection -fuzztime $(FUZZTIME) ./internal/broker
	go test -run '^$$' -fuzz FuzzBus -fuzztime $(FUZZTIME) ./internal/broker
	go test -run '^$$' -fuzz FuzzUnescape -fuzztime $(FUZZTIME) ./internal/shared/escape
	go test -run '^$$' -fuzz FuzzBus -fuzztime $(FUZZTIME) ./internal/consumer

clean: ## remove the built commands
	rm -f build/broker build/producer build/consumer
