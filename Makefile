# Fathom.  `make` builds, `make run` serves the bundled model, `make check` tests; README.md has the rest.
comma := ,
SAN    ?=
O      ?= build/$(if $(SAN),$(subst $(comma),-,$(SAN)),release)
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
CC     ?= cc
OPT    ?= -O2 -g
PKGS   := libmicrohttpd libcjson
LISTEN ?= 127.0.0.1:8080
MODEL  ?= conf/model

PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LIBS       := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread -ldl
CHECK_LIBS  = $(shell pkg-config --libs check 2>/dev/null)
WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE $(WARNINGS) $(WERROR) $(OPT) -ffp-contract=off -fno-fast-math \
             $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -DFM_SLOW_CHECKS) -I. $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)

DIRS  := $(patsubst %/,%,$(wildcard backends/ backends/*/)) kvcache engine engine/ref scheduler daemon
MAINS := daemon/main.c
OBJS  := $(patsubst %.c,$(O)/%.o,$(filter-out $(MAINS),$(wildcard $(DIRS:%=%/*.c))))
LIB   := $(O)/libfathom.a
TESTS := $(patsubst %.c,$(O)/%,$(wildcard tests/*/test_*.c))
SUPPORT := $(O)/libsupport.a
FUZZERS := $(patsubst %.c,$(O)/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCHES := $(patsubst %.c,$(O)/%,$(wildcard tests/bench/bench_*.c))
SCRIPTS := $(wildcard tests/e2e/test_*.py tests/systemd/test_*.sh)
PROGRAMS := $(if $(wildcard daemon/main.c),$(O)/fathomd) $(if $(wildcard engine/tools/fathom_probe.c),$(O)/fathom-probe)

# Kernels: one file per instruction level, chosen at run time.  No flag here changes a result.
# Sanitizers watch the scalar ones, whose body all levels share: the unrolled loops of the others
# would take the compiler ten minutes each.
KERN_MATH  := -fno-trapping-math -fno-math-errno
KERN_FLAGS := $(if $(SAN),-O1 -fno-sanitize=all,-O3) $(KERN_MATH)
FLAGS_kern_scalar := $(if $(SAN),-O0,-O3) $(KERN_MATH)
FLAGS_kern_neon   := $(KERN_FLAGS)
ifneq ($(findstring x86_64,$(shell $(CC) -dumpmachine)),)
FLAGS_kern_avx2   := $(KERN_FLAGS) -mavx2 -mfma -mf16c
FLAGS_kern_avx512 := $(KERN_FLAGS) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512
endif

all: $(LIB) $(PROGRAMS)
$(LIB): $(OBJS)
	@rm -f $@
	$(AR) crs $@ $^
$(O)/fathomd: $(O)/daemon/main.o $(LIB)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)
$(O)/fathom-probe: $(patsubst %.c,$(O)/%.o,$(wildcard engine/tools/*.c)) $(LIB)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)
$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(FLAGS_$(notdir $*)) -MMD -MP -c -o $@ $<
$(SUPPORT): $(patsubst %.c,$(O)/%.o,$(wildcard tests/support/*.c))
	@rm -f $@
	$(AR) crs $@ $^
$(TESTS): $(O)/%: $(O)/%.o $(SUPPORT) $(LIB)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(CHECK_LIBS) $(LIBS)
$(FUZZERS): $(O)/%: $(O)/%.o $(O)/tests/fuzz/replay.o $(LIB)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)
$(BENCHES): $(O)/%: $(O)/%.o $(LIB)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)

# `make run` and `make check` install what they miss where there is apt, then start over with it.
deps:
	@tests/deps.sh run
run:
	@tests/deps.sh run
	@$(MAKE) --no-print-directory all
	@echo "When it says event=ready, try in another terminal:"; echo; \
	echo "  curl -s http://$(LISTEN)/v1/chat/completions -H 'Content-Type: application/json' \\"; \
	echo "    -d '{\"model\":\"fathom-demo\",\"messages\":[{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]}'"; echo
	@exec $(O)/fathomd --set model.path=$(MODEL) --set model.name=fathom-demo --set http.listen=$(LISTEN)
check:
	@tests/deps.sh check
	@$(MAKE) --no-print-directory check-all-built
check-all-built: all $(TESTS) $(FUZZERS)
	@O=$(O) tests/run.sh $(TESTS) $(FUZZERS) $(SCRIPTS)
tests: $(TESTS) $(FUZZERS)
asan tsan:
	@tests/deps.sh check
	@$(MAKE) --no-print-directory check-built SAN=$(if $(filter asan,$@),address$(comma)undefined,thread)
check-built: all $(TESTS) $(FUZZERS)
	@O=$(O) TEST_S=900 CK_DEFAULT_TIMEOUT=240 CK_TIMEOUT_MULTIPLIER=4 tests/run.sh $(TESTS) $(FUZZERS)
lint:
	@tests/lint/lint.sh
fuzz:
	@$(MAKE) --no-print-directory CC=clang O=build/fuzz OPT="-O1 -g" CFLAGS="-fsanitize=fuzzer-no-link,address,undefined" \
	    $(patsubst tests/%.c,build/fuzz/tests/%.fuzzer,$(wildcard tests/fuzz/fuzz_*.c))
$(O)/%.fuzzer: $(O)/%.o $(LIB)
	$(CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(LIBS)
bench: all $(BENCHES)
	@for b in $(BENCHES); do $$b || exit 1; done
# DESTDIR is a staging root, SYSCONFDIR holds settings and keys; an existing fathomd.conf is left as it is.
PLACES = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g'
install: all
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin share/fathom/model share/doc/fathom lib/systemd/system lib/sysusers.d lib/tmpfiles.d) \
	    $(DESTDIR)$(SYSCONFDIR)/fathom
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(wildcard conf/model/*) $(DESTDIR)$(PREFIX)/share/fathom/model/
	install -m 644 $(wildcard README.md) LICENSE $(DESTDIR)$(PREFIX)/share/doc/fathom/
	$(PLACES) conf/installed.conf >$(DESTDIR)$(PREFIX)/share/fathom/installed.conf
	$(PLACES) systemd/fathomd.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/fathomd.service
	$(PLACES) systemd/fathomd.sysusers >$(DESTDIR)$(PREFIX)/lib/sysusers.d/fathomd.conf
	$(PLACES) systemd/fathomd.tmpfiles >$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/fathomd.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/fathom/fathomd.conf || \
	    install -m 644 conf/fathomd.conf $(DESTDIR)$(SYSCONFDIR)/fathom/fathomd.conf
clean:
	rm -rf build

.PHONY: all deps run check check-all-built check-built tests asan tsan lint fuzz bench install clean
.SECONDARY:
-include $(shell find $(O) -name '*.d' 2>/dev/null)
