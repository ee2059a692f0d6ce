# Everything a user or a CI job calls. Each target says what it does, may be run again, and takes seconds when there is
# nothing to do. The work is in tools/*.sh.

.DEFAULT_GOAL := help
.PHONY: help setup build test test-full train bench format method-pages presubmit clean

help: ## this text
	@echo "Weft: one long sequence over many devices."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

setup: ## install what is missing: Debian packages, and torch into .venv
	@bash tools/setup.sh

build: setup ## set up and build the program: build/weft
	@bash tools/build.sh

test: setup ## set up, build, run all tests and a sanitizer subset
	@bash tools/test.sh

test-full: setup ## the same without shortcuts: cross products, all sanitizers
	@bash tools/test.sh full

train: build ## set up, build, train a small model on two ranks into runs/demo
	@bash tools/train_demo.sh

bench: setup ## build and run the benchmarks
	@bash tools/bench.sh

format: ## format all C++ files (clang-format 14)
	@bash tools/format.sh

method-pages: build ## write the pictures and tables of docs/methods anew
	@tools/method_pages.py build/weft

presubmit: ## check include order, file sizes, ASCII, formatting
	@tools/presubmit

clean: ## remove what was built; keeps .venv and runs
	rm -rf build build-*
