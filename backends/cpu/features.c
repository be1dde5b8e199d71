/* features.c - CPUID, XGETBV, HWCAP, the cpuset and the control group's quota; see features.h. */
#include "backends/cpu/features.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

enum { PATH_BYTES = 512, FILE_BYTES = 256 };

static const char *const level_names[CPU_LEVEL_COUNT] = {"scalar", "neon", "avx2", "avx512"};

const char *cpu_level_name(enum cpu_level level)
{
    FM_ASSERT(level < CPU_LEVEL_COUNT);
    return level_names[level];
}

#if defined(__x86_64__)
#include <cpuid.h>

/* Bits of XCR0: which registers the operating system saves. */
enum { XCR0_YMM = 0x6, XCR0_ZMM = 0xe6 };

static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

bool cpu_level_is_offered(enum cpu_level level)
{
    uint32_t a, b, c, d;
    if (level == CPU_LEVEL_SCALAR)
        return true;
    if (level == CPU_LEVEL_NEON || !__get_cpuid(1, &a, &b, &c, &d))
        return false;

    uint32_t first = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    if ((c & first) != first || (xcr0() & XCR0_YMM) != XCR0_YMM)
        return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & bit_AVX2) == 0)
        return false;
    if (level == CPU_LEVEL_AVX2)
        return true;

    uint32_t wide = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    return (b & wide) == wide && (xcr0() & XCR0_ZMM) == XCR0_ZMM;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

bool cpu_level_is_offered(enum cpu_level level)
{
    enum { HWCAP_BIT_ASIMD = 1 << 1 };
    if (level == CPU_LEVEL_NEON)
        return (getauxval(AT_HWCAP) & HWCAP_BIT_ASIMD) != 0;
    return level == CPU_LEVEL_SCALAR;
}
#else
bool cpu_level_is_offered(enum cpu_level level)
{
    return level == CPU_LEVEL_SCALAR;
}
#endif

enum fm_status cpu_level_choose(const char *variant, enum cpu_level *ret_level, struct fm_err *err)
{
    FM_ASSERT(ret_level != NULL);
    const char *wanted = variant != NULL ? variant : getenv("FATHOM_ISA");
    for (uint32_t i = CPU_LEVEL_COUNT; i-- > 0;) {
        enum cpu_level level = (enum cpu_level)i;
        bool is_offered = cpu_level_is_offered(level);
        if (wanted == NULL || wanted[0] == '\0') {
            if (is_offered) {
                *ret_level = level;
                return FM_OK;
            }
        } else if (strcmp(wanted, level_names[i]) == 0) {
            if (!is_offered)
                return FM_FAIL(err, FM_UNSUPPORTED, "this processor does not offer level '%s'",
                               wanted);
            *ret_level = level;
            return FM_OK;
        }
    }
    return FM_FAIL(err, FM_UNSUPPORTED,
                   "'%.32s' is no instruction level: scalar, neon, avx2, avx512", wanted);
}

/* ---- threads ------------------------------------------------------------------------------- */

/* The first line of a small file without its line end; false when there is none. */
static bool line_read(const char *path, char *ret_line, size_t bytes)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool is_read = fgets(ret_line, (int)bytes, file) != NULL;
    (void)fclose(file);
    if (is_read)
        ret_line[strcspn(ret_line, "\n")] = '\0';
    return is_read;
}

static uint32_t quota_threads(uint64_t quota_us, uint64_t period_us)
{
    if (period_us == 0)
        return UINT32_MAX;
    return fm_u32(fm_max_u64(1, fm_min_u64(fm_div_ceil(quota_us, period_us), UINT32_MAX)));
}

/* Version 2: cpu.max holds "max 100000" or "150000 100000". */
static bool quota_read_v2(const char *folder, uint32_t *ret_threads)
{
    char path[PATH_BYTES + 32], line[FILE_BYTES];
    (void)snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!line_read(path, line, sizeof line))
        return false;

    uint64_t quota_us, period_us;
    char *blank = strchr(line, ' ');
    if (blank == NULL)
        return false;
    *blank = '\0';
    *ret_threads = UINT32_MAX;
    if (fm_parse_u64(line, 1, UINT64_MAX, &quota_us) &&
        fm_parse_u64(blank + 1, 1, UINT64_MAX, &period_us))
        *ret_threads = quota_threads(quota_us, period_us);
    return true;
}

/* Version 1: two files, a quota of -1 is none. */
static bool quota_read_v1(const char *folder, uint32_t *ret_threads)
{
    char path[PATH_BYTES + 32], quota[FILE_BYTES], period[FILE_BYTES];
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!line_read(path, quota, sizeof quota))
        return false;
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!line_read(path, period, sizeof period))
        return false;

    uint64_t quota_us, period_us;
    *ret_threads = UINT32_MAX;
    if (fm_parse_u64(quota, 1, UINT64_MAX, &quota_us) &&
        fm_parse_u64(period, 1, UINT64_MAX, &period_us))
        *ret_threads = quota_threads(quota_us, period_us);
    return true;
}

uint32_t cpu_cgroup_threads(const char *root, const char *group)
{
    uint32_t threads = UINT32_MAX;
    char name[PATH_BYTES / 2];
    (void)snprintf(name, sizeof name, "%s", group);
    for (;;) {
        char folder[PATH_BYTES];
        uint32_t here;
        (void)snprintf(folder, sizeof folder, "%.200s%s", root, name);
        if (quota_read_v2(folder, &here))
            threads = fm_min_u32(threads, here);
        (void)snprintf(folder, sizeof folder, "%.200s/cpu%s", root, name);
        if (quota_read_v1(folder, &here))
            threads = fm_min_u32(threads, here);

        char *slash = strrchr(name, '/');
        if (slash == NULL)
            return threads;
        *slash = '\0';
    }
}

/* The lines of /proc/self/cgroup are "0::/a/b" (version 2) and "4:cpu,cpuacct:/a/b". */
static uint32_t quota_own(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return UINT32_MAX;
    uint32_t threads = cpu_cgroup_threads("/sys/fs/cgroup", "");
    char line[FILE_BYTES];
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *colon = strchr(line, ':');
        char *group = colon != NULL ? strchr(colon + 1, ':') : NULL;
        if (group == NULL)
            continue;
        *group = '\0';
        if (colon[1] == '\0' || strstr(colon + 1, "cpu") != NULL)
            threads = fm_min_u32(threads, cpu_cgroup_threads("/sys/fs/cgroup", group + 1));
    }
    (void)fclose(file);
    return threads;
}

/* True for a processor that is the first of its core within the set.  The list begins with the
 * lowest sibling: "0,64" or "0-1". */
static bool is_first_sibling(uint32_t processor, const cpu_set_t *set)
{
    char path[PATH_BYTES], line[FILE_BYTES];
    (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list",
                   processor);
    if (!line_read(path, line, sizeof line))
        return true;
    line[strcspn(line, ",-")] = '\0';
    uint64_t first;
    if (!fm_parse_u64(line, 0, CPU_SETSIZE - 1, &first))
        return true;
    return first == processor || !CPU_ISSET((size_t)first, set);
}

uint32_t cpu_threads_allowed(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    uint32_t cores = 0;
    for (uint32_t i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set) && is_first_sibling(i, &set))
            cores++;
    return fm_max_u32(1, fm_min_u32(cores, quota_own()));
}
