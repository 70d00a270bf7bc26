# The whole pipeline as files that depend on files: a second run does nothing, an interrupted one goes on.
#
#   make all                                  on generated faces, with small encoders trained here
#   make all DATA=... ANNOTATIONS=... WEIGHTS=...   on Aff-Wild2, with the full-size encoders

# A command line changes these (make all OUT=...); variables of these names that a shell happens to have do not.
PYTHON      := python3
JOBS        := 2
DATA        :=
ANNOTATIONS :=
WEIGHTS     :=
OUT         := $(if $(DATA),out/data,out/demo)

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
LOWEST := .venv-lowest

ifdef DATA
CONFIGS   := configs/abaw4
ABAW7     := abaw7/progressive --set common.backbones=[mae]
HEADS     := lstm gru transformer none
VIDEOS    := $(DATA)
ifndef ANNOTATIONS
$(error ANNOTATIONS is missing: make all DATA=/path/to/cropped_aligned ANNOTATIONS=/path WEIGHTS=/path)
endif
ifdef WEIGHTS
export ABAW_WEIGHTS := $(WEIGHTS)
endif
BACKBONES := mae iresnet densenet
ENCODERS  :=
DEMO      :=
else
CONFIGS   := configs/demo
ABAW7     := demo/progressive
HEADS     := lstm gru transformer none
VIDEOS    := $(OUT)/data/cropped_aligned
ANNOTATIONS := $(OUT)/data/annotations
BACKBONES := $(addprefix $(OUT)/encoders/,mae iresnet densenet)
ENCODERS  := $(addsuffix /backbone.yaml,$(BACKBONES))
DEMO      := $(OUT)/data/contact_sheet.png
endif

FEATS   := $(OUT)/feats.h5
RUNS    := $(addprefix $(OUT)/runs/,$(HEADS))
SCORES  := $(addsuffix /scores.json,$(RUNS))
AVERAGE := $(OUT)/runs/average
REPORT  := $(OUT)/report.html
RESULTS := $(OUT)/results.md

.PHONY: help all results abaw7 test test-lowest check bench fuzz clean
.DELETE_ON_ERROR:

help:
	@echo "make all     frames -> features -> heads -> scores and report (demo data unless DATA is given)"
	@echo "             make all DATA=/path/to/cropped_aligned ANNOTATIONS=/path WEIGHTS=/path"
	@echo "make results every model with three seeds, smoothed, and their ensemble, as one table"
	@echo "make abaw7   progressive training in small: a model per task, their features, joint models, as one table"
	@echo "make test    the tests"
	@echo "make check   formatting, faults that can be seen in the source, and types"
	@echo "make test-lowest  the tests with the lowest versions that pyproject.toml allows"
	@echo "make fuzz    thousands of damaged inputs for every reader"
	@echo "make bench   the benchmarks, as tables of ratios"
	@echo "make clean   removes out/ (the environment in $(VENV) stays)"

all: $(REPORT)
	@$(BIN)/abaw-seq evaluate $(RUNS) $(AVERAGE) --summary --constant --title "Validation scores"
	@echo "report: $(REPORT)"

results: $(RESULTS)
	@cat $(RESULTS)

# What is finished is passed over by the command itself.
abaw7: $(FEATS)
	$(BIN)/abaw-seq progressive --config $(ABAW7) --feats $(FEATS) --run $(OUT)/p7 --jobs $(JOBS)
	$(BIN)/abaw-seq report $(OUT)/p7

test: $(READY)
	$(BIN)/python -m pytest

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(READY)
	$(BIN)/python -m pytest tests/fuzz --fuzz 4000

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf out

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (PyTorch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all]"
	@touch $@

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e ".[all]"
	@touch $@

# Demo data and the encoders that are trained on it. What is finished, but of other settings, is made again.
$(OUT)/data/contact_sheet.png: | $(READY)
	@mkdir -p $(OUT)
	$(BIN)/abaw-feats demo $(OUT)/data

$(OUT)/encoders/mae/backbone.yaml: configs/demo/mae.yaml $(DEMO) | $(READY)
	@if [ -e $@ ]; then rm -r $(@D); fi
	$(BIN)/abaw-feats pretrain --config $< --videos $(VIDEOS) --out $(@D) --resume

$(OUT)/encoders/%/backbone.yaml: configs/demo/%.yaml $(DEMO) | $(READY)
	@if [ -e $@ ]; then rm -r $(@D); fi
	$(BIN)/abaw-feats finetune --config $< --videos $(VIDEOS) --annotations $(ANNOTATIONS) --out $(@D) --resume

# Stage 1: one pass over the frames for all backbones. Features of encoders that have changed are made again.
$(FEATS): $(ENCODERS) $(DEMO) | $(READY)
	@mkdir -p $(OUT)
	@$(if $(ENCODERS),rm -f $@)
	$(BIN)/abaw-extract $(addprefix --backbone ,$(BACKBONES)) --videos $(VIDEOS) --annotations $(ANNOTATIONS) -o $@

# Stage 2: heads on the cached sequences. A finished run whose inputs have changed is made again; all configs of heads
# build on gru.yaml.
$(OUT)/runs/%/scores.json: $(CONFIGS)/%.yaml $(CONFIGS)/gru.yaml $(FEATS)
	@if [ -e $@ ]; then rm -r $(@D); fi
	$(BIN)/abaw-seq train --config $< --feats $(FEATS) --run $(@D) --resume

$(AVERAGE)/scores.json: $(SCORES)
	$(BIN)/abaw-seq ensemble $(filter-out %/none,$(RUNS)) --run $(@D)

$(REPORT): $(SCORES) $(AVERAGE)/scores.json
	$(BIN)/abaw-seq report $(AVERAGE) $(RUNS) --frames $(VIDEOS) -o $(OUT)

# The comparison of all models over seeds. Members that are finished are not trained again.
$(RESULTS): $(wildcard $(CONFIGS)/*.yaml) $(FEATS)
	@if [ -e $@ ]; then rm -rf $(OUT)/results; fi
	$(BIN)/abaw-seq ensemble --config $(CONFIGS)/ensemble.yaml --feats $(FEATS) --run $(OUT)/results --jobs $(JOBS) > /dev/null
	cp $(OUT)/results/results.md $@
