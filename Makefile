# A thin list of the words that people type; the work is in `cargo xtask`.
.PHONY: setup build lab demo test lint bench clean

CARGO ?= cargo
IPFAMILY ?= ipv6

setup: ## install what the build and the lab need (Debian packages, bpf-linker); says what it chose, safe to repeat
	$(CARGO) xtask setup

build: setup ## build the one binary, release profile
	$(CARGO) build --release --package seta

lab: build ## a two-node cluster on this machine
	./target/release/seta lab up --ip-family $(IPFAMILY)

demo: setup ## install, build, and walk through what a first user does, printing every step
	$(CARGO) xtask demo

test: setup ## everything, proven: format, lints, layers, unit, property, kernel and end-to-end tests
	$(CARGO) xtask test

lint: ## format, clippy, layers
	$(CARGO) xtask lint

bench: setup ## the performance table
	$(CARGO) xtask bench

clean:
	$(CARGO) clean
