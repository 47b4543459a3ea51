# The front door: `make help` lists what can be done.
#   CLUSTER=current   uses the current kube context instead of a cluster of our own, and HOLDFAST_IMAGE, an image that it can pull
#   T=name            only the end-to-end tests whose name contains it
#   HOLDFAST_CACHE    where tools, images and Cargo's target folders are kept (default ~/.cache/holdfast)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help test test-nightly test-unit lint test-chart e2e image cluster-up cluster-down demo demo-down generate

export HOLDFAST_CACHE ?= $(HOME)/.cache/holdfast
# One for each checkout: cargo knows what is new by its time alone, and would take what another checkout built for its own.
export CARGO_TARGET_DIR ?= $(HOLDFAST_CACHE)/target/$(subst /,-,$(CURDIR))
# It saves seconds here, takes gigabytes, and rustc 1.95 crashes on what it kept of a bench.
export CARGO_INCREMENTAL ?= 0
export CLUSTER T
export PATH := $(HOLDFAST_CACHE)/bin:$(PATH)

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

test: ## everything that CI runs; ends in counts
	@e2e/tools/test.sh lint dependencies unit chart e2e

test-nightly: ## what takes long: retention over 100 000 catalogues (N=number of them; `make test` tries 2 000), the models of a copy's life and of a run's attempts with large budgets, ticks over 50 000 lives of schedules (CASES=number), the planner's bar, a keeper's pass over 50 000 copies (COPIES=number), end-to-end tests that wait for ten minutes
	@HOLDFAST_CATALOGUES=$${N:-100000} cargo test --locked -p holdfast-policy --lib retention
	@HOLDFAST_MODEL=large cargo test --locked -p holdfast-policy --test model -- --test-threads=1
	@PROPTEST_CASES=$${CASES:-50000} cargo test --locked -p holdfast-policy --lib tick
	@cargo test --locked -p holdfast-operator --lib attempt::model -- --ignored
	@cargo test --locked --release -p holdfast-policy --test scale
	@HOLDFAST_COPIES=$${COPIES:-50000} cargo test --locked -p holdfast-agent --test process keep
	@e2e/tools/test.sh long

test-unit: ## tests without a cluster: pure, scenario, store
	@e2e/tools/test.sh unit

lint: ## format, clippy, dependencies, shellcheck
	@e2e/tools/test.sh lint dependencies

test-chart: ## the chart: lint, rendering, schemas
	@e2e/tools/test.sh chart

e2e: ## end-to-end tests on a real cluster (T=name for some of them)
	@e2e/tools/test.sh e2e

image: ## static binaries and the image with both, given to the cluster's nodes if it runs
	@e2e/tools/image.sh

cluster-up: ## start the test cluster; prints the path of its kubeconfig
	@e2e/cluster/up.sh

cluster-down: ## stop the test cluster and remove all of it
	@e2e/cluster/down.sh

demo: ## the main job, shown on a real cluster: back up, lose, restore, compare
	@e2e/demo/demo.sh

demo-down: ## remove the demo, and the cluster that it started
	@e2e/demo/demo.sh down

generate: ## write the generated definitions and schemas anew
	@cargo run --quiet -p holdfast-crds --example generate
