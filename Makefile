# Goliath: two commands do everything. `make run` boots a Linux, `make test` runs all tests.

SHELL := /bin/bash
BUILD := swift build -c release

PREFIX ?= /usr/local

.PHONY: run test build install setup format benchmark reference clean

run: setup build            ## install what is missing, build, boot Debian's kernel to a shell
	@scripts/run

test:                       ## install what is missing, build once (optimised), run every test
	@scripts/test

build:                      ## the release build: goliath, goliath-shell, goliath-img
	@$(BUILD) --product goliath
	@$(BUILD) --product goliath-shell
	@$(BUILD) --product goliath-img

install: build              ## the three programs and completions, below PREFIX (/usr/local) and DESTDIR
	@install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/share/bash-completion/completions"
	@install -s "$$($(BUILD) --show-bin-path)"/{goliath,goliath-shell,goliath-img} "$(DESTDIR)$(PREFIX)/bin"
	@"$(DESTDIR)$(PREFIX)/bin/goliath-shell" --completion bash \
	  > "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/goliath-shell"
	@"$(DESTDIR)$(PREFIX)/bin/goliath-img" --completion \
	  > "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/goliath-img"

setup:                      ## Debian packages that are missing
	@scripts/setup

format:                     ## rewrite the sources in the project's format
	swift format format -i -r Package.swift Plugins Sources Tests Benchmarks

benchmark:                  ## boot, and programs in a guest, beside QEMU's TCG
	@scripts/setup --tests
	@$(BUILD) --product goliath
	@scripts/guest .build/guest
	@Benchmarks/boot.py
	@Benchmarks/guest/run.py

reference:                  ## docs/reference from schemas/
	@scripts/reference

clean:
	rm -rf .build
