PYTHON ?= python3
INSTALLED := $(shell cat .venv/faiss 2>/dev/null)
FAISS ?= $(or $(INSTALLED),cpu)
STUDY ?= smoke
SELECT ?=
BENCH ?=
ROOM ?= scores
COUNT ?= 150
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help smoke mini pretrained finetuned rehearsal report crate test test-faults test-slurm test-gpu mutants bench docs lint lint-schemas clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Each target first sets up .venv. FAISS=gpu installs FAISS for GPUs; PYTHON=… chooses the interpreter."

smoke: .venv/ready ## run the whole study at smoke scale, in minutes: does everything work?
	snakemake --cores all --configfile config/smoke.yaml

mini: .venv/ready ## run the whole study at mini scale, in less than an hour: the paper's effects, small
	snakemake --cores all --configfile config/mini.yaml

pretrained: .venv/ready ## run the study of a pretrained model, in about 25 minutes: kNN with a good LM
	snakemake --cores all --configfile config/pretrained.yaml

finetuned: .venv/ready ## train the pretrained model further, in at most an hour: retrieving from a text against training on it
	snakemake --cores all --configfile config/finetuned.yaml

rehearsal: .venv/ready ## run all jobs of the paper study with tiny models on small texts: would it finish on a cluster?
	python tests/rehearsal

report: .venv/ready ## make the report page of config/STUDY.yaml, and all that it needs (STUDY=smoke)
	snakemake --cores all report --configfile config/$(STUDY).yaml

crate: .venv/ready ## pack that study with its workflow and provenance into results/STUDY.crate.zip, for a deposit
	snakemake --cores all crate --forcerun crate --configfile config/$(STUDY).yaml

test: .venv/ready ## run the tests, the smoke study among them
	pytest

test-faults: .venv/ready ## fault tests: kill every stage, fill the disk, run two studies at once (see tests/faults)
	pytest -m "slow or not slow" tests/faults

test-slurm: .venv/ready ## start a SLURM on this machine and run the smoke study on it (SELECT=… picks tests, as pytest -k)
	pytest -rs tests/slurm -k "$(SELECT)"

test-gpu: .venv/ready ## run the GPU tests, then measure the rates that plans assume, in 20 minutes (FAISS=gpu)
	python -m benchmarks.gpu

# The errors are put into a copy, so that the files here stay as they are.
mutants: .venv/ready ## put 150 errors into a room of knnlm, one at a time: do its tests notice? (ROOM=scores COUNT=150)
	.venv/bin/python -m pip install --quiet --constraint requirements.txt --editable '.[mutants]'
	python tests/mutants --room $(ROOM) $(if $(filter all,$(COUNT)),--all,--count $(COUNT))

bench: .venv/ready ## measure each expensive step beside an alternative (BENCH=… picks cases by their first letters)
	python -m benchmarks $(BENCH)

docs: .venv/ready ## make a site of the documentation, site/index.html; a broken link is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

lint: .venv/ready ## check style, types and schemas; changes nothing
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	$(MAKE) --no-print-directory lint-schemas

STUDIES = $(filter-out config/archives.yaml config/paper_numbers.yaml config/gpt2_numbers.yaml, $(wildcard config/*.yaml))

lint-schemas: .venv/ready ## check the configuration files, CITATION.cff and the CI files against their schemas
	check-jsonschema --quiet --check-metaschema $(wildcard workflow/schemas/*)
	check-jsonschema --quiet --schemafile $(wildcard workflow/schemas/study.schema.*) $(STUDIES)
	check-jsonschema --quiet --schemafile $(wildcard workflow/schemas/sheet.schema.*) $(filter-out config/experiments/beyond.yaml, $(wildcard config/experiments/*.yaml))
	check-jsonschema --quiet --schemafile $(wildcard workflow/schemas/archives.schema.*) config/archives.yaml
	check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

clean: ## remove the environment, Snakemake's records and the site; results and downloads stay
	rm -rf .venv .snakemake site

# faiss-cpu and faiss-gpu install the same folder: one is removed before the other is installed.
ifneq ($(FAISS),$(INSTALLED))
.venv/ready: another-faiss
endif
.PHONY: another-faiss
another-faiss:
	if test -x .venv/bin/python; then .venv/bin/python -m pip uninstall --quiet --yes faiss-cpu faiss-gpu; fi
	rm -f .venv/faiss

.venv/ready: pyproject.toml requirements.txt setup/kenlm.sh
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint requirements.txt --editable '.[$(FAISS),test,lint]'
	setup/kenlm.sh .venv
	echo $(FAISS) > .venv/faiss
	touch $@
