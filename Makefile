# Everything a developer runs. `make` alone lists the targets; ARGS="..." reaches the command
# behind one, as in: make demo ARGS="--duration 30s". Each target first sets up what it needs.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
KAFKA_LIBS := build/kafka/libs
ASYNCAPI := tests/asyncapi

# A stamp is newer than what it was made from, so a second run has nothing to do.
STAMP_VENV := $(VENV)/.created
STAMP_RUNTIME := $(VENV)/.runtime
STAMP_DEV := $(VENV)/.dev
STAMP_KERNELS := build/.kernels
STAMP_KAFKA := $(KAFKA_LIBS)/.complete
STAMP_ASYNCAPI := $(ASYNCAPI)/node_modules/.complete

# With extras: pip's hash mode refuses pandas[parquet] of one package where the lock has only pandas.
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Compiled kernels are kept by the date of their own file; constants that they import from others
# are compiled in.
$(STAMP_KERNELS): $(shell find worker -name '*.py')
	@find worker -name '*.nb[ci]' -delete
	@mkdir -p $(@D) && touch $@
$(STAMP_RUNTIME) $(STAMP_DEV): | $(STAMP_KERNELS)

.PHONY: setup
setup: $(STAMP_RUNTIME) ## Make .venv with the program and the locked versions of what it needs
	@:

.PHONY: setup-dev
setup-dev: $(STAMP_DEV) ## The same with the tools for tests, linters and training
	@:

.PHONY: demo
demo: $(STAMP_RUNTIME) ## Watch simulated machines being scored (ARGS="--duration 30s --report out.json")
	@exec $(BIN)/driftdetector demo $(ARGS)

.PHONY: test
test: $(STAMP_DEV) ## Run the tests, on a real Apache Kafka (ARGS="tests/core -k windows")
	@.ci/tools
	@if command -v mvn >/dev/null; then $(MAKE) --no-print-directory kafka-jars; fi
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory asyncapi-parser; fi
	@exec $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: lint
lint: $(STAMP_DEV) ## Check format, lint, types, import direction, Dockerfile and compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

.PHONY: format
format: $(STAMP_DEV) ## Format the code and fix what the linter can fix by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lock
lock: $(STAMP_DEV) ## Write requirements/*.txt anew from pyproject.toml (ARGS="--upgrade")
	$(UV_COMPILE) $(ARGS) --all-extras --group dev pyproject.toml -o requirements/dev.txt
	$(UV_COMPILE) $(ARGS) -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	$(UV_COMPILE) $(ARGS) -c requirements/dev.txt --group pyproject.toml:build -o requirements/build.txt
	$(UV_COMPILE) $(ARGS) --group pyproject.toml:pip -o requirements/pip.txt
	$(UV_COMPILE) $(ARGS) --group pyproject.toml:comparison -o requirements/comparison.txt

.PHONY: kafka
kafka: $(STAMP_RUNTIME) kafka-jars ## Start a local Apache Kafka on 127.0.0.1:9092 until Ctrl-C (ARGS="--port 9192")
	@exec $(BIN)/python -m load.local_kafka --data build/kafka/data $(ARGS)

.PHONY: kafka-jars
kafka-jars: $(STAMP_KAFKA) ## Fetch Apache Kafka's jars into build/kafka/libs with Maven
	@:

.PHONY: asyncapi-parser
asyncapi-parser: $(STAMP_ASYNCAPI) ## Fetch AsyncAPI's own parser for the tests with npm
	@:

.PHONY: bench
bench: $(STAMP_DEV) kafka-jars ## Measure throughput and restore on a real Kafka; writes build/bench.json
	@exec $(BIN)/python -m load.bench $(ARGS)

SEEDS ?= 5000
SEED ?=

.PHONY: simulate
simulate: $(STAMP_DEV) ## Run the worker on a simulated broker under seeded faults (SEEDS=5000, SEEDS=100-199; SEED=7: its trace)
	@exec $(BIN)/python -m load.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

.PHONY: bench-detection
bench-detection: $(STAMP_DEV) ## Measure detection where the truth is known; writes build/bench-detection.json (ARGS="--sets fleets")
	@exec $(BIN)/python -m load.detection $(ARGS)

.PHONY: bench-drift
bench-drift: $(STAMP_DEV) ## Measure drift's false alarms, power and cost beside other libraries; writes build/bench-drift.json (ARGS="--repetitions 20")
	@exec $(BIN)/python -m load.drift $(ARGS)

.PHONY: bench-backtest
bench-backtest: $(STAMP_DEV) ## Measure how fast recordings are applied again; writes build/bench-backtest.json
	@exec $(BIN)/python -m load.backtest $(ARGS)

.PHONY: bench-predict
bench-predict: $(STAMP_DEV) ## Measure predictions over HTTP; writes build/bench-predict.json (ARGS="--seconds 5")
	@exec $(BIN)/python -m load.predict $(ARGS)

.PHONY: bench-latency
bench-latency: $(STAMP_DEV) kafka-jars ## Measure the time from a gateway's produce call to the anomaly; writes build/bench-latency.json
	@exec $(BIN)/python -m load.latency $(ARGS)

.PHONY: drift-campaign
drift-campaign: $(STAMP_DEV) kafka-jars ## Change simulated fleets and see what drift events tell, on a real Kafka (ARGS="--seeds 3")
	@exec $(BIN)/python -m load.drift_live $(ARGS)

.PHONY: bench-restart
bench-restart: $(STAMP_DEV) kafka-jars ## Measure restart and memory with 10,000 and 100,000 machines (ARGS="--machines 10000")
	@exec $(BIN)/python -m load.restart $(ARGS)

.PHONY: bench-explanation
bench-explanation: $(STAMP_DEV) ## Measure what explaining one anomaly costs, part by part
	@exec $(BIN)/python -m load.explanation

.PHONY: torture
torture: $(STAMP_DEV) kafka-jars ## Kill, freeze and cut off workers on a real Kafka; writes build/torture.json (ARGS="--kills 5")
	@exec $(BIN)/python -m load.torture $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP_DEV) kafka-jars ## Feed a worker a million hostile payloads and account for each; writes build/fuzz.json (ARGS="--payloads 20000")
	@exec $(BIN)/python -m load.fuzz $(ARGS)

.PHONY: soak
soak: $(STAMP_DEV) kafka-jars ## Watch the worker's memory over 20 million events; writes build/soak.json (ARGS="--events 1000000")
	@exec $(BIN)/python -m load.soak $(ARGS)

.PHONY: equality
equality: $(STAMP_DEV) kafka-jars ## Compare a backtest with what a worker published, 2 million events; writes build/equality.json
	@exec $(BIN)/python -m load.equality $(ARGS)

.PHONY: bench-takeover
bench-takeover: $(STAMP_DEV) kafka-jars ## Measure how long a lost worker's partitions wait, with and without standby copies
	@exec $(BIN)/python -m load.takeover $(ARGS)

.PHONY: train-default-model
train-default-model: $(STAMP_DEV) ## Train a new version of the default bundle on healthy simulated machines
	@exec $(BIN)/driftdetector train --simulate \
		--channels models/machine-health/channels.toml --out models/machine-health $(ARGS)

.PHONY: schemas
schemas: $(STAMP_RUNTIME) ## Write schemas/*.json and the AsyncAPI document from worker/core/messages.py
	@exec $(BIN)/driftdetector schemas write $(ARGS)

.PHONY: clean
clean: ## Remove all that make made: .venv, build, dist and the tools' caches
	rm -rf $(VENV) build dist $(ASYNCAPI)/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find worker load tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- files -----------------------------------------------------------------------------------

$(STAMP_VENV):
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed: install Python 3.11 or newer, or name one, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but Python 3.11 or newer is needed: name one, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments: install its venv package, on Debian with apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(STAMP_RUNTIME): requirements/runtime.txt requirements/build.txt pyproject.toml | $(STAMP_VENV)
	@echo "Installing the locked dependencies and driftdetector into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMP_DEV): requirements/dev.txt $(STAMP_RUNTIME)
	@echo "Installing the tools for tests, linters and training into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/pip.txt
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Into a folder of its own first: an interrupted or a second run never leaves half a set of jars.
$(STAMP_KAFKA): load/kafka/pom.xml
	@command -v mvn >/dev/null || { echo "make: Maven is needed to fetch Apache Kafka: apt-get install maven default-jre-headless" >&2; exit 1; }
	@echo "Fetching Apache Kafka into $(KAFKA_LIBS)"
	@mkdir -p build/kafka; new=$$(mktemp -d build/kafka/libs.XXXXXX) && chmod 755 $$new \
		&& { mvn --batch-mode --file load/kafka/pom.xml dependency:copy-dependencies \
			-DoutputDirectory="$(CURDIR)/$$new" >$$new/maven.log 2>&1 \
			|| { tail -n 20 $$new/maven.log >&2; rm -rf $$new; exit 1; }; } \
		&& touch $$new/.complete && rm -rf $(KAFKA_LIBS) && mv -T $$new $(KAFKA_LIBS)

$(STAMP_ASYNCAPI): $(ASYNCAPI)/package-lock.json
	@echo "Fetching AsyncAPI's parser into $(ASYNCAPI)/node_modules"
	@npm ci --silent --no-fund --no-audit --prefix $(ASYNCAPI)
	@touch $@
