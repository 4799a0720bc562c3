# Every command of the project. `make` alone lists them.
#
#   HOST, PORT   where `make serve` listens                    127.0.0.1, 8000
#   PYTHON       interpreter of the environments, 3.11 or later
#   DATA, RUNS   training faces and training runs              ../shared/faces, runs/PRESET
#   DEVICE       where to train                                cpu
#   PRESET       folder of recipes                             xs on a CPU, else s, which the bundled model is made of
#   ARGS         more arguments of serve, test, integration, train, evaluate, bench, fuzz or audit
#
# pip's own configuration and PIP_* variables apply as everywhere (mirrors, certificates, extra indices), but for PIP_USER:
# an environment takes no installation into the home folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
export PIP_USER := 0

HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= ../shared/faces
DEVICE ?= cpu
PRESET ?= $(if $(filter cpu,$(DEVICE)),xs,s)
RUNS ?= runs/$(PRESET)
ARGS ?=

VENV := .venv
VENV_DEV := .venv-dev
VENV_TRITON := .venv-triton
REPOSITORY := model_repository
DETECTOR := $(REPOSITORY)/detector/1/model.onnx
PRESETS := latent_pmrf/training/presets/$(PRESET)
FINISHES := $(foreach finish,estimator_finish vae_finish flow_finish flow_likeness,$(basename $(notdir $(wildcard $(PRESETS)/$(finish).yaml))))
TRAINED := $(RUNS)$(addprefix -,$(lastword $(FINISHES)))
RECIPE := pyproject.toml constraints.txt hatch_build.py service/rpc/restoration.proto
EVERYTHING := .[train,evaluate,test,lint]
# A Triton 2.51 server for tests, and what its stand-in for NVIDIA's backend needs. The server's Python part wants NumPy 1.
TRITON_SERVER := nvidia-pytriton==0.5.14
TRITON_BACKEND := numpy==1.26.4 $(shell grep '^onnxruntime==' constraints.txt)

PYTHON ?= $(shell for candidate in python3.11 python3; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$candidate; break; fi; done)

# $(call create_venv,FOLDER): a working environment there, whatever an interrupted run may have left, or a move of the clone.
define create_venv
	@case "$$(cat $(1)/.installed 2>/dev/null || true)" in "" | "$$(pwd -P)") kept=1;; *) kept=;; esac; \
	if [ "$$kept" ] && $(1)/bin/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
	if [ -z "$(PYTHON)" ]; then \
		echo "error: Python 3.11 or later was not found; install it or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "error: $(PYTHON) is not Python 3.11 or later; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "==> installing $$package"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$$package" >/dev/null; \
		else \
			echo "error: $(PYTHON) cannot create environments; run: sudo apt-get install $$package" >&2; exit 1; \
		fi; \
	fi; \
	echo "==> creating $(1) with $$($(PYTHON) --version)"; \
	rm -rf $(1); \
	$(PYTHON) -m venv $(1)
endef

# $(call pip_install,FOLDER,ARGUMENTS)
define pip_install
	@$(1)/bin/python -m pip install -qq --disable-pip-version-check $(2) || { \
		echo "error: pip could not install this: check the network and pip's configuration ($(1)/bin/python -m pip config list);" \
			"then the same make goes on" >&2; exit 1; }
endef

# $(call install,FOLDER,REQUIREMENT,SIZE)
define install
	@echo "==> installing $(2) into $(1)$(3)"
	$(call pip_install,$(1),--constraint constraints.txt --editable '$(2)')
	@pwd -P > $@
endef

# Debian's Chromium for the tests of the page, where it may be installed; elsewhere those tests are skipped and say so.
define offer_browser
	@if ! command -v chromedriver >/dev/null && [ "$$(id -u)" = 0 ] && grep -qsx 'ID=debian' /etc/os-release; then \
		echo "==> installing chromium"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			chromium chromium-driver; } >/dev/null 2>&1 || echo "chromium could not be installed; going on without it" >&2; \
	fi
endef

# Debian's Redis 7 for the tests of the shared queue, likewise; Redis 6.2 comes with a package of the test extra.
define offer_redis
	@if [ ! -x /usr/bin/redis-server ] && [ "$$(id -u)" = 0 ] && grep -qsx 'ID=debian' /etc/os-release; then \
		echo "==> installing redis-server"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq -y --no-install-recommends \
			redis-server; } >/dev/null 2>&1 || echo "redis-server could not be installed; going on without it" >&2; \
	fi
endef

# Debian's Prometheus for the tests of dashboards and alerts, likewise.
define offer_prometheus
	@if ! command -v promtool >/dev/null && [ "$$(id -u)" = 0 ] && grep -qsx 'ID=debian' /etc/os-release; then \
		echo "==> installing prometheus"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq -y --no-install-recommends \
			prometheus; } >/dev/null 2>&1 || echo "prometheus could not be installed; going on without it" >&2; \
	fi
endef

# Triton, likewise; the wheel is for Linux on x86-64.
define offer_triton
	@$(MAKE) triton || echo "the Triton server could not be installed; going on without it" >&2
endef

# $(call fetch_detector,FOLDER)
define fetch_detector
	@if [ ! -s $(DETECTOR) ]; then \
		echo "==> fetching the face detector"; \
		$(1)/bin/python -m export.detector --model-repository $(REPOSITORY); \
	fi
endef

.PHONY: help
help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

# The stamps: an environment is brought up to date when the recipe is newer than its last complete installation, and when
# it does not work here: the stamp names another folder, so the clone was moved, or its Python is gone or another.
STAMPS := $(addsuffix /.installed,$(VENV) $(VENV_DEV) $(VENV_TRITON))
unusable = $(shell [ "$$(cat $(1) 2>/dev/null)" = "$$(pwd -P)" ] && $(dir $(1))bin/python -c 'import pip' 2>/dev/null || echo FORCE)
.PHONY: FORCE
FORCE:
$(VENV)/.installed $(VENV_DEV)/.installed: $(RECIPE)
$(foreach stamp,$(STAMPS),$(eval $(stamp): $(call unusable,$(stamp))))

# One make at a time sets an environment up; who has waited looks at the stamp again.
ifneq ($(ALONE),yes)
$(STAMPS):
	@{ : >>$(@D).lock; } 2>/dev/null || { \
		echo "error: $(@D) has to be set up here, and $$PWD cannot be written to; use a checkout of your own" >&2; exit 1; }; \
	exec 9>$(@D).lock; \
	if command -v flock >/dev/null; then \
		flock --nonblock 9 || { echo "another make is setting up $(@D); waiting"; flock 9; }; \
	fi; \
	$(MAKE) --silent ALONE=yes $@
else
$(VENV)/.installed:
	$(call create_venv,$(VENV))
	$(call install,$(VENV),., (about 0.4 GB: minutes))

$(VENV_DEV)/.installed:
	$(call create_venv,$(VENV_DEV))
	$(call install,$(VENV_DEV),$(EVERYTHING))

$(VENV_TRITON)/.installed:
	$(call create_venv,$(VENV_TRITON))
	@echo "==> installing $(TRITON_SERVER) into $(VENV_TRITON)"
	$(call pip_install,$(VENV_TRITON),$(TRITON_BACKEND))
	$(call pip_install,$(VENV_TRITON),--no-deps '$(TRITON_SERVER)')
	@pwd -P > $@
endif

.PHONY: install
install: $(VENV)/.installed ## the service's environment and the detector, without starting
	$(call fetch_detector,$(VENV))

.PHONY: install-dev
install-dev: $(VENV_DEV)/.installed ## the developer's environment and the detector
	$(call fetch_detector,$(VENV_DEV))

.PHONY: triton
triton: $(VENV_TRITON)/.installed ## the Triton server that tests start

.PHONY: serve
serve: install ## set up what is missing and serve on HOST:PORT
	@exec $(VENV)/bin/python -m service.cli serve --host $(HOST) --port $(PORT) $(ARGS)

.PHONY: test
test: install-dev ## every test; what needs a GPU, a browser, Redis, Prometheus, Triton or kubectl is skipped visibly without it
	$(call offer_browser)
	$(call offer_redis)
	$(call offer_prometheus)
	$(call offer_triton)
	@# Some set PYTHONDONTWRITEBYTECODE; hundreds of processes are started here, and each would compile the same files.
	@PYTHONDONTWRITEBYTECODE= $(VENV_DEV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: integration
integration: install-dev ## only the tests with real servers, sessions and pictures
	@$(VENV_DEV)/bin/python -m pytest tests/integration $(ARGS)

.PHONY: lint
lint: $(VENV_DEV)/.installed ## ruff, mypy, import contracts
	@$(VENV_DEV)/bin/ruff check .
	@$(VENV_DEV)/bin/ruff format --check .
	@$(VENV_DEV)/bin/mypy
	@$(VENV_DEV)/bin/lint-imports

.PHONY: format
format: $(VENV_DEV)/.installed ## sort imports, mend what ruff can mend, format
	@$(VENV_DEV)/bin/ruff check --fix .
	@$(VENV_DEV)/bin/ruff format .

.PHONY: train
train: install-dev ## train the model of PRESET on DATA (three stages and their finishes, resumable) and export it
	@for stage in estimator vae flow; do \
		echo "==> training: $$stage"; \
		$(VENV_DEV)/bin/python -m latent_pmrf.cli train $$stage --config $(PRESETS)/$$stage.yaml \
			--data $(DATA) --runs $(RUNS) --device $(DEVICE) $(ARGS); \
	done
	@from=$(RUNS); for finish in $(FINISHES); do \
		echo "==> training: $$finish"; \
		stage=$${finish%_*} to=$(RUNS)-$$finish; \
		for kept in estimator vae flow; do \
			[ $$kept = $$stage ] || install -D -t $$to/$$kept $$from/$$kept/weights.safetensors; \
		done; \
		$(VENV_DEV)/bin/python -m latent_pmrf.cli train $$stage --config $(PRESETS)/$$finish.yaml \
			--data $(DATA) --runs $$to --init $$from/$$stage/weights.safetensors --device $(DEVICE) $(ARGS); \
		from=$$to; \
	done
	@echo "==> exporting"
	@$(VENV_DEV)/bin/python -m export.cli bundle --runs $(TRAINED) --model-repository $(REPOSITORY) --name latent-pmrf-$(PRESET)

.PHONY: evaluate
evaluate: install-dev ## quality of the bundled model on DATA/val: table, model card, sheet of pictures
	@$(VENV_DEV)/bin/python -m latent_pmrf.cli evaluate --bundle $(REPOSITORY) --data $(DATA)/val \
		--out runs/evaluation --model-card docs/MODEL_CARD.md $(ARGS)

.PHONY: defaults
defaults: install-dev ## take the steps and fidelity that the last `make evaluate` chose, and its figures, into the manifest
	@$(VENV_DEV)/bin/python -m export.cli set-defaults --model-repository $(REPOSITORY) --quality runs/evaluation/results.json

.PHONY: bench
bench: install-dev ## speed and memory of the embedded service
	@$(VENV_DEV)/bin/python -m loadtest.bench $(ARGS)

.PHONY: bench-cpu
bench-cpu: install-dev ## every network beside this processor's peak, in PyTorch, onnxruntime and, if installed, OpenVINO; one face
	@$(VENV_DEV)/bin/python -m export.cli cpu --model-repository $(REPOSITORY) $(ARGS)

.PHONY: loadtest
loadtest: install-dev ## load past saturation, open loop, over HTTP and gRPC, against a service that it starts; table and plot
	@$(VENV_DEV)/bin/python -m loadtest.traffic --out build/loadtest $(ARGS)

.PHONY: soak
soak: install-dev ## twenty minutes of jobs on a deployment whose processes are killed; nothing may be lost
	@$(VENV_DEV)/bin/python -m loadtest.soak $(ARGS)

.PHONY: bench-gateway
bench-gateway: install-dev ## all that is no network: times by stage and photos a second, with networks that cost nothing
	@$(VENV_DEV)/bin/python -m service.bench.gateway $(ARGS)

.PHONY: bench-wire
bench-wire: install-dev ## photos a second by one stream of gRPC, by single calls of gRPC, and by HTTP
	@$(VENV_DEV)/bin/python -m service.bench.wire $(ARGS)

.PHONY: bench-batching
bench-batching: install-dev ## what step-level batching brings, on modelled accelerators and the bundled networks; draws the plot
	@$(VENV_DEV)/bin/python -m service.bench.batching --real $(REPOSITORY) --json build/batching.json $(ARGS)
	@$(VENV_DEV)/bin/python -m loadtest.curves build/batching.json docs/images/batching.png

.PHONY: guide
guide: install-dev ## docs/API.md from the running service, the proto file and the examples
	@$(VENV_DEV)/bin/python -m loadtest.guide $(ARGS)

.PHONY: fuzz
fuzz: install-dev ## 20,000 hostile files through decoders and encoder, 2,000 of them over HTTP: crashes, defects, leaks
	@$(VENV_DEV)/bin/python -m tests.fuzz $(ARGS)

# A list of vulnerabilities that does not know this version's would call everything safe, and so is not believed.
KNOWN_TO_BE_VULNERABLE := pillow==9.0.0
AUDIT_TOOLS := pip-audit==2.10.1 pip-licenses==5.5.5
OSV_URL ?= https://api.osv.dev/v1/query
.PHONY: audit
audit: $(VENV)/.installed ## known vulnerabilities of constraints.txt, and the licences of the service's environment
	$(call create_venv,build/audit)
	@build/audit/bin/python -m pip install -qq --disable-pip-version-check $(AUDIT_TOOLS)
	@echo "==> licences"
	@build/audit/bin/pip-licenses --python $(VENV)/bin/python --from mixed --order license --ignore-packages latent-pmrf pip setuptools
	@echo '$(KNOWN_TO_BE_VULNERABLE)' > build/audit/vulnerable.txt
	@ask() { build/audit/bin/pip-audit --progress-spinner off --disable-pip --no-deps --osv-url '$(OSV_URL)' "$$@"; }; \
	for list in osv pypi; do \
		if { ask -s $$list -r build/audit/vulnerable.txt 2>/dev/null || true; } | grep -qE 'PYSEC-|GHSA-|CVE-'; then \
			echo "==> vulnerabilities, as $$list knows them"; \
			ask -s $$list --strict -r constraints.txt $(ARGS); \
			exit; \
		fi; \
	done; \
	echo "SKIPPED: no list of vulnerabilities answers from here (OSV_URL names a mirror); NOTHING WAS AUDITED" >&2

.PHONY: showcase
showcase: install-dev ## the README's before and after picture, made by the service
	@$(VENV_DEV)/bin/python -m loadtest.showcase $(ARGS)

.PHONY: page-pictures
page-pictures: install-dev ## the pictures of the page in the documents, made by the tests of the page
	@PAGE_PICTURES=docs/images $(VENV_DEV)/bin/python -m pytest -q tests/browser/test_page_pictures.py

# The union of both environments at the newest versions pyproject.toml allows. Exceptions: torch moves by hand, after
# checking that a CPU wheel exists, and so do the extras `metrics`, which follows torch, and `openvino`; local tags (+cpu) are the
# index's.
MOVED_BY_HAND := openvino(-telemetry)?|torchmetrics|torch-fidelity|torchvision|pyiqa|transformers
.PHONY: lock
lock: ## renew constraints.txt from a scratch environment (run the tests afterwards)
	$(call create_venv,build/lock)
	@echo "==> resolving"
	@grep '^torch==' constraints.txt > build/torch.txt
	@build/lock/bin/python -m pip install -qq --disable-pip-version-check --constraint build/torch.txt --editable '$(EVERYTHING)'
	@{ echo '# Exact versions of both environments; written by `make lock`.'; \
		{ build/lock/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+.*//'; \
			grep -E '^($(MOVED_BY_HAND))==' constraints.txt; } | sort -f -t= -k1,1; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt
	@rm -rf build/lock build/torch.txt

.PHONY: clean
clean: ## remove environments and caches; keeps weights and training runs
	@rm -rf $(VENV) $(VENV_DEV) $(VENV_TRITON) .venv*.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@rm -f service/rpc/restoration_pb2*
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
