# Fathom.  `make` builds, `make run` serves the bundled model, `make check` tests; README.md has the rest.
comma := ,
SAN   ?=
O     ?= build/$(if $(SAN),$(subst $(comma),-,$(SAN)),release)
PREFIX ?= /usr/local
PKGS  := libmicrohttpd libcjson
CC    ?= cc
OPT   ?= -O2 -g

PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LIBS       := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread -ldl
CHECK_LIBS  = $(shell pkg-config --libs check 2>/dev/null)
WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE $(WARNINGS) $(WERROR) $(OPT) -ffp-contract=off -fno-fast-math \
             $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -DFM_SLOW_CHECKS) -I. $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS)

DIRS  := $(patsubst %/,%,$(wildcard backends/ backends/*/)) kvcache engine engine/ref scheduler daemon
MAINS := daemon/main.c engine/tools/fathom_probe.c
OBJS  := $(patsubst %.c,$(O)/%.o,$(filter-out $(MAINS),$(wildcard $(DIRS:%=%/*.c))))
TESTS := $(patsubst %.c,$(O)/%,$(wildcard tests/*/test_*.c))
SUPPORT := $(patsubst %.c,$(O)/%.o,$(wildcard tests/support/*.c))
BENCHES := $(patsubst %.c,$(O)/%,$(wildcard tests/bench/bench_*.c))

PROGRAMS := $(if $(wildcard daemon/main.c),$(O)/fathomd) $(if $(wildcard engine/tools/fathom_probe.c),$(O)/fathom-probe)
all: $(OBJS) $(PROGRAMS)

$(O)/fathomd: $(O)/daemon/main.o $(OBJS)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)
$(O)/fathom-probe: $(O)/engine/tools/fathom_probe.o $(OBJS)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)
$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<
$(TESTS): $(O)/%: $(O)/%.o $(SUPPORT) $(OBJS)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(CHECK_LIBS) $(LIBS)
$(BENCHES): $(O)/%: $(O)/%.o $(OBJS)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(LIBS)

tests: $(TESTS)
check: $(TESTS)
	@tests/run.sh $^
asan tsan:
	$(MAKE) check SAN=$(if $(filter asan,$@),address$(comma)undefined,thread)
clean:
	rm -rf build

.PHONY: all tests check asan tsan clean
.SECONDARY:
-include $(shell find $(O) -name '*.d' 2>/dev/null)
