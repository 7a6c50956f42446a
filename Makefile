# The usual ways to build, try, test and install mom. A build takes 2 jobs, which fits in 1 GB
# of memory; JOBS=8 is faster where there is more. This one fits in 400 MB:
#   CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 make JOBS=1

PREFIX = /usr/local
DESTDIR =
JOBS = 2
CARGO = cargo
BUILD = $(or $(CARGO_TARGET_DIR),target)/release

bindir = $(DESTDIR)$(PREFIX)/bin
mandir = $(DESTDIR)$(PREFIX)/share/man/man1
compdir = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
unit = $(DESTDIR)/etc/systemd/system/mom.service
sysusers = $(DESTDIR)/etc/sysusers.d/mom.conf
initd = $(DESTDIR)/etc/init.d/mom

.PHONY: all demo demo-slack test fuzz soak world check bench dist dist-test install install-service uninstall clean

all: $(BUILD)/mom

# Built when it is missing or older than the sources; so `sudo make install` after `make`
# needs no cargo, and root leaves no files in target.
$(BUILD)/mom: $(shell find src -type f) Cargo.toml Cargo.lock
	@CARGO='$(CARGO)' src/install/can-build.sh
	$(CARGO) build --release --locked --jobs $(JOBS)
	@touch $@

# A short conversation without keys and network; goes on with you at a terminal.
demo: all
	tests/demo.sh $(BUILD)/mom

# What runs look like in Slack: target/demo-slack.html.
demo-slack:
	$(CARGO) test --locked --test demo-slack

# Everything; starts a Docker engine when there is none and it can. Its last line says how
# many tests ran, on which engine, and what was left out.
test:
	@CARGO='$(CARGO)' src/install/can-build.sh
	CARGO='$(CARGO)' tests/engine.sh tests/run.sh

# For the parsers alone: AFL++ where it is installed (SECONDS for each of them), else twenty
# times the mutated input of `test`.
SECONDS = 300
fuzz:
	CARGO='$(CARGO)' tests/fuzz.sh $(SECONDS)

# 300 kills at random instants, clocks that jump, a network that is gone. Takes python3.
soak: all
	tests/soak.sh $(BUILD)/mom

# Against litellm, llama.cpp, nginx and squid. Takes python3 and PyPI.
world: all
	tests/world.sh $(BUILD)/mom

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	if command -v shellcheck >/dev/null; then \
	    shellcheck docker.sh tests/*.sh .ci/run src/install/*.sh src/install/mom.bash; fi
	$(MAKE) test

# Figures beside their goals; fails when one is missed.
bench:
	tests/engine.sh $(CARGO) bench --locked --bench bench

# Static binaries and Debian packages in target/dist; each at work under an emulator. What
# that takes stands at the top of src/install/dist.sh.
dist:
	JOBS=$(JOBS) CARGO=$(CARGO) src/install/dist.sh build

dist-test:
	CARGO=$(CARGO) src/install/dist.sh test
	tests/boot.sh $(lastword $(sort $(wildcard $(dir $(BUILD))dist/mom-bot_*_amd64.deb)))

install: $(BUILD)/mom
	install -D -m 755 $(BUILD)/mom $(bindir)/mom
	install -D -m 755 docker.sh $(bindir)/mom-sandbox
	install -D -m 644 src/install/mom.1 $(mandir)/mom.1
	ln -sf mom.1 $(mandir)/mom-sandbox.1
	install -D -m 644 src/install/mom.bash $(compdir)/mom
	ln -sf mom $(compdir)/mom-sandbox

# The files say at their top what is to be done first. INIT=openrc for Alpine.
INIT = $(if $(shell command -v openrc-run),openrc,systemd)
install-service: install-$(INIT)

install-systemd:
	install -d $(dir $(unit))
	sed 's|@bindir@|$(PREFIX)/bin|' src/install/mom.service >$(unit)
	install -D -m 644 src/install/mom.sysusers $(sysusers)
	$(if $(DESTDIR),,if command -v systemd-sysusers >/dev/null; then systemd-sysusers mom.conf; fi)
	@echo "next: systemctl daemon-reload && systemctl enable --now mom"

install-openrc:
	install -d $(dir $(initd))
	sed 's|@bindir@|$(PREFIX)/bin|' src/install/mom.openrc >$(initd)
	chmod 755 $(initd)
	@echo "next: rc-update add mom && rc-service mom start"

uninstall:
	rm -f $(foreach name,mom mom-sandbox,$(bindir)/$(name) $(mandir)/$(name).1 $(compdir)/$(name))
	rm -f $(unit) $(sysusers) $(initd)

clean:
	$(CARGO) clean
