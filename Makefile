# make measure [GPU=label] [EMULATE=label] [MODEL=name] [GRID=name] [BUDGET=seconds] [WEIGHTS=directory] [FAKE=label] [COMPILE=1]
# make profile [LABEL=label]       add the card that is there to configs/gpus.toml
# make derive [MODEL=name] [VARIANT="text default-static …"] [FAKE=label]     the peak formula from the program itself
# make derived FILE=formula        its ledger;  make explain FROM=formula TO=formula: what moved between two
# make validate ESTIMATOR=… [BASE=…] [FILE=…] [TOLERANCE=5%] [MARKDOWN=report.md]     hold an estimator against results
# make scoreboard                  rank all of them;  make report [FILE=… RESULTS=folder]: figures and tables on a page
# make predict GPU=label [MODEL=name] [CONTEXT=tokens] [BATCH=n] [PHASE=decode] [CHUNK=tokens] [MEMORY=79.1GiB] [FREE=1GiB]
# make capacity GPU=label [MODEL=name] [CHUNK=tokens] [MEMORY=…] [FREE=…]      the largest contexts and batches that fit
# make simulate [MODEL=name] [VARIANT="default text-chunk2048 …"]              what the caching allocator adds
# make test | drift | calibrate | claims | bench        PYTHON=python3 uses that interpreter as it is and installs nothing.
#
# make itself answers every failure with 2; the line "exit N: …" says what the command's own code was:
# 0 in agreement, 1 drift (or no evidence), 2 bad input, 3 environment not as asked.

export LABEL CONTEXT BATCH PHASE CHUNK MEMORY FREE GPU MODEL GRID BUDGET WEIGHTS FAKE EMULATE COMPILE RESULTS FILE VARIANT FROM TO ESTIMATOR BASE TOLERANCE MARKDOWN
BASE_PYTHON ?= python3

ifdef PYTHON
RUN := $(PYTHON)
READY :=
else
RUN := .venv/bin/python
READY := .venv/ready
endif

.PHONY: measure profile drift calibrate claims bench derive derived explain validate scoreboard predict capacity simulate report test lint

measure: $(READY)
	@done=$$(mktemp) && trap 'rm -f "$$done"' EXIT && trap 'exit 130' INT \
	&& $(RUN) -m harness measure --path-to "$$done" \
		$${GPU:+--gpu "$$GPU"} $${EMULATE:+--emulate "$$EMULATE"} $${FAKE:+--fake "$$FAKE"} $${COMPILE:+--compile} \
		$${MODEL:+--model "$$MODEL"} $${GRID:+--grid "$$GRID"} \
		$${BUDGET:+--budget "$$BUDGET"} $${WEIGHTS:+--weights "$$WEIGHTS"} $${RESULTS:+--results "$$RESULTS"} \
	&& { read -r file; read -r config; } < "$$done" && $(RUN) -m analysis judge "$$file" --config "$$config"

profile: $(READY)
	@$(RUN) -m harness profile $${LABEL:+--label "$$LABEL"}

drift: $(READY)
	@for file in $${FILE:-$$(find $${RESULTS:-results} -name '*.jsonl' | sort)}; do \
		$(RUN) -m analysis judge "$$file" || exit; done

calibrate: $(READY)
	@$(RUN) -m analysis calibrate $${FILE:-$$(find $${RESULTS:-results} -name '*.jsonl' | sort)} --readme README.md

claims: $(READY)
	@for folder in $${RESULTS:-results/fake-h200 results/emulated-a100-80gb}; do \
		$(RUN) -m analysis claims $$folder || exit; done

derive: $(READY)
	@$(RUN) -m analysis derive $${MODEL:+--model "$$MODEL"} $${FAKE:+--fake "$$FAKE"} $${RESULTS:+--results "$$RESULTS"} \
		$$(for variant in $$VARIANT; do echo "--variant $$variant"; done)

derived: $(READY)
	@$(RUN) -m analysis ledger "$$FILE"

explain: $(READY)
	@$(RUN) -m analysis explain "$$FROM" "$$TO"

validate: $(READY)
	@$(RUN) -m analysis validate "$$ESTIMATOR" $${BASE:+--base "$$BASE"} $${FILE:+--file "$$FILE"} \
		$${TOLERANCE:+--tolerance "$$TOLERANCE"} $${MARKDOWN:+--markdown "$$MARKDOWN"}

scoreboard: $(READY)
	@$(RUN) -m analysis scoreboard $${FILE:+--file "$$FILE"}
	@$(RUN) -m analysis held-out $${FILE:+--file "$$FILE"}

ASKED = $${GPU:+--gpu "$$GPU"} $${MODEL:+--model "$$MODEL"} $${CHUNK:+--chunk "$$CHUNK"} $${VARIANT:+--variant "$$VARIANT"} \
	$${MEMORY:+--memory "$$MEMORY"} $${FREE:+--free "$$FREE"}

predict: $(READY)
	@$(RUN) -m analysis predict $(ASKED) $${CONTEXT:+--context "$$CONTEXT"} $${BATCH:+--batch "$$BATCH"} \
		$${PHASE:+--phase "$$PHASE"}

capacity: $(READY)
	@$(RUN) -m analysis capacity $(ASKED)

simulate: $(READY)
	@$(RUN) -m analysis simulate $${MODEL:+--model "$$MODEL"} $${FAKE:+--fake "$$FAKE"} \
		$$(for variant in $$VARIANT; do echo "--variant $$variant"; done)

report: $(READY)
	@$(RUN) -m analysis report $${FILE:-$${RESULTS:+$$(find "$$RESULTS" -path '*/default/*.jsonl' | sort)}} \
		$${RESULTS:+--to "$$RESULTS"}

bench: $(READY)
	@$(RUN) -m tests.bench

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: lint
	$(RUN) -m pytest -n 2 --dist loadscope

.venv/ready: requirements.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(BASE_PYTHON) is older than Python 3.11; name a newer one: make BASE_PYTHON=python3.12 …" >&2; exit 3; }
	$(BASE_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
