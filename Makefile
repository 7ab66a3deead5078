# mbus: make help lists the targets.

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# How long make torture fuzzes each target.
FUZZTIME = 10m

.PHONY: all help demo test check bench torture clean

all: ## build the commands into build/ (the default)
	go build -o build/ ./cmd/broker ./cmd/producer ./cmd/consumer

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

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

check: ## check format, vet, staticcheck, and run every test with the race detector
	@unformatted=$$(gofmt -l cmd internal); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go test -race ./...
	GOMAXPROCS=1 go test -count=1 ./...

bench: ## measure, beside floors; the table of ratios comes last (about 2 minutes)
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
