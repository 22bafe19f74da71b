# make COMMAND [NAME=value …]; `vram-ledger COMMAND --help` says more of each. The variables are its options, in capitals.
#
#   measure      run a campaign, or the rest of one, and judge it: GPU= or EMULATE= or FAKE=card, MODEL= GRID= BUDGET=
#                WEIGHTS= RESULTS= COMPILE=1
#   boundary     the longest contexts that fit, found on the card: GPU= or EMULATE=card, MODEL= VARIANT= PHASE= BATCH=
#                CHUNK= MOST= MEMORY= GUESS= AT= SHAPES= SEED= RESULTS=
#   judge        a verdict per term of every results file: FILE= or RESULTS= CONFIG= CALIBRATION=
#   calibrate    calibrations and tables of results: FILE= or RESULTS=
#   profile      add the card that is there to configs/gpus.toml: LABEL=
#   predict      what a workload takes, and whether it fits: GPU= MODEL= CONTEXT= BATCH= PHASE= CHUNK= MEMORY= FREE=
#                ALLOCATOR= SYMBOLS=1
#   capacity     the longest contexts and largest batches that fit: GPU= MODEL= CHUNK= MEMORY= FREE= ALLOCATOR=
#                both of a server: RUNTIME=vllm, sglang or llama.cpp, UTILIZATION= KV_TYPE= PREFIX_CACHING= DRAFTS=
#                WEIGHTS= TENSOR_PARALLEL= POOL=
#   validate     hold an estimator against results: ESTIMATOR= TOLERANCE= BASE= FILE= MARKDOWN=
#   scoreboard   every estimator on the same points: FILE= RESULTS=
#   claims       the FitMyGPU page on the 27B, claim by claim: RESULTS=
#   report       figures and tables on one page: FILE= RESULTS=
#   derive       all that a program allocates, from the program itself: MODEL= VARIANT= EMULATE= RESULTS=
#   derived      a formula and its ledger: FILE= BATCH= CONTEXT=
#   explain      what moved between two formulas: FROM= TO=
#   held-out     what is predicted against what cards counted, make boundary's files: FILE= RESULTS=
#   history      a memory snapshot of a run of your own, in words: FILE= DEVICE= TOP= FIGURE=
#   oracle       what a server itself plans on an emulated card: RUNTIME=vllm MODEL= EMULATE= VARIANT= CONTEXT=
#                UTILIZATION= GRAPHS=1 INTERPRETER= RESULTS=
#   test         lint, types, tests; lint and bench alone, too
#
# PYTHON=python3 uses that interpreter as it is and installs nothing. What is written goes to runs/ unless RESULTS says
# where. make itself answers every failure with 2; the last line, "exit N: …", says what the command's own code was.

BASE_PYTHON ?= python3
COMMANDS := measure boundary judge drift calibrate profile predict capacity validate scoreboard claims report derive \
	derived explain held-out history oracle
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(foreach name,$(GIVEN),$(eval override export $(name) := $$(value $(name))))
export VRAM_LEDGER_GIVEN := $(GIVEN)

ifdef PYTHON
RUN := "$(PYTHON)"
READY :=
else
RUN := .venv/bin/python
READY := .venv/ready
endif

.PHONY: help nothing-else bench lint test $(COMMANDS)

help: nothing-else
	@sed -n 's/^# \{0,1\}//p' Makefile

$(COMMANDS): $(READY)
	@$(RUN) -m vram_ledger.from_make $@

nothing-else:
	@$(if $(filter-out PYTHON BASE_PYTHON,$(GIVEN)),$(error unknown variable: $(filter-out PYTHON BASE_PYTHON,$(GIVEN))))

bench: nothing-else $(READY)
	@$(RUN) -m tests.bench

lint: nothing-else $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: lint
	$(RUN) -m pytest -n 2 --dist loadscope

.venv/ready: requirements.txt
	@"$(BASE_PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(BASE_PYTHON) is older than Python 3.11; name a newer one: make BASE_PYTHON=python3.12 …" >&2; exit 3; }
	"$(BASE_PYTHON)" -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
