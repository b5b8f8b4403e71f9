# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-deep test-langchain test-engines check format lock models models-minilm proto registry bench-decide bench-edge bench-batch sim-vs-real calibration sim sim-all bench-sim bench-gpu clean
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: .venv/ready  ## Make .venv with everything locked, and the embedding model in the user's cache
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m workers.models.minilm.build
	@touch $@

demo: setup  ## An embedded fleet on this machine: Redis, a WAN, six workers, a gateway on port 8080
	$(BIN)/isochrone demo

test: check  ## Every check and every test
	$(BIN)/python -m pytest

test-deep: setup  ## 50,000 random schedules of failures over the pure core (5,000 are in make test)
	SCHEDULES=50000 $(BIN)/python -m pytest tests/properties/test_schedules.py

test-langchain: setup  ## langchain-openai against a gateway and real workers, in an environment of its own (136 MB)
	$(PYTHON) -m venv build/langchain && build/langchain/bin/pip install --quiet "langchain-openai>=1.7"
	LANGCHAIN_PYTHON=build/langchain/bin/python $(BIN)/python -m pytest tests/client_surfaces/test_langchain.py

ENGINES := build/engines
TORCH ?= torch==2.13.0
test-engines: setup  ## Engines of others behind worker attach (1.7 GB into build; TORCH names a CPU build of torch)
	test -x $(ENGINES)/transformers/bin/transformers || { $(PYTHON) -m venv $(ENGINES)/transformers && \
		$(ENGINES)/transformers/bin/pip install --quiet '$(TORCH)' 'transformers[serving]==5.17.0' requests; }
	test -x $(ENGINES)/ray/bin/ray || { $(PYTHON) -m venv $(ENGINES)/ray && \
		$(ENGINES)/ray/bin/pip install --quiet 'ray[serve]==2.60.0'; }
	ENGINES=$(ENGINES) $(BIN)/python -m pytest tests/engines

check: setup  ## Formatting, lint, types, import rules, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: setup  ## Format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup  ## Resolve the dependencies anew
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		--extra worker --extra demo --extra simulate --extra accelerate --extra test pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		--extra worker --constraint requirements.lock pyproject.toml --output-file deploy/requirements.lock

models-minilm: setup  ## Build the embedding model from its published weights into the user's cache
	$(BIN)/python -m workers.models.minilm.build

models:  ## Train and export the bundled models anew (needs the extra `models`: torch)
	$(PYTHON) -m venv build/models && build/models/bin/pip install --quiet -e '.[worker,models]'
	build/models/bin/python -m workers.models.digits.build
	build/models/bin/python -m workers.models.fraud.build
	build/models/bin/python -m workers.models.tinychat.build
	build/models/bin/python -m workers.models.minilm.build

proto:  ## Compile the gRPC contract of workers/proto anew (makes a venv with protoc)
	$(PYTHON) -m venv build/proto && build/proto/bin/pip install --quiet grpcio-tools
	build/proto/bin/python -m grpc_tools.protoc -Iworkers/proto --include_imports \
		--descriptor_set_out=workers/proto/wire.bin inference.proto health.proto status.proto

registry: setup  ## A Redis on 127.0.0.1:6379 that keeps nothing on disk, for workers and gateways without the demo
	exec "$$($(BIN)/python -c 'from loadtests.embedded import redis_server; print(redis_server())')" \
		--port 6379 --bind 127.0.0.1 --save "" --appendonly no

bench-decide: setup  ## What a decision costs, by the number of nodes
	$(BIN)/python -m loadtests.micro.decide

bench-edge: setup  ## CPU per proxied request with the full decision, beside nginx (needs nginx)
	$(BIN)/python -m loadtests.live.bench_edge; missed=$$?; $(BIN)/python -m loadtests.live.bench_rpc && exit $$missed

bench-batch: setup  ## Requests in deadline by the rule that forms batches, loads of 0.2 to 1.3 (15 min; wants idle cores)
	$(BIN)/python -m loadtests.live.bench_batch

sim-vs-real: setup  ## One plan simulated and in real processes: do they agree? (3 min; wants two idle cores)
	$(BIN)/python -m loadtests.live.versus

calibration: setup  ## 21,000 requests through real gateways: are predicted probabilities true, does a burst herd? (7 min)
	$(BIN)/python -m loadtests.live.calibration

sim: setup  ## The headline: six policies beside the bound (15 minutes); writes docs/results.md
	$(BIN)/python -m loadtests.simulator.headline

sim-all: setup  ## Every scenario under every policy: hours; goes on where it was interrupted
	$(BIN)/python -m loadtests.simulator.everything

bench-sim: setup  ## Simulated requests per minute on one core, and where the time goes
	$(BIN)/python -m loadtests.simulator.bench

bench-gpu:  ## An encoder and a decoder of 8 billion parameters on this machine's GPU: 9 minutes; PYTHON must have torch
	$(PYTHON) -m workers.bench.gpu

clean:  ## Remove what the targets made
	rm -rf .venv build
