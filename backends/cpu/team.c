/* team.c - a counting barrier over one futex word; see team.h. */
#include "backends/cpu/team.h"

#include <linux/futex.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/thread.h"

/* About 50 us of pauses on the processors that were measured. */
enum { SPIN_MIN = 16, SPIN_MAX = 4096 };

struct cpu_team_member {
    struct cpu_team *team;
    uint32_t index;
    struct fm_thread *thread;
};

struct cpu_team {
    alignas(128) _Atomic uint32_t turn;    /* the futex word; moved by the last to arrive */
    alignas(128) _Atomic uint32_t arrived; /* in this turn */
    alignas(128) _Atomic uint32_t parked;  /* sleep, or are about to, on turn */
    _Atomic uint32_t spin_limit;           /* relaxed: a hint */
    alignas(128) cpu_team_body body;       /* written before the barrier that starts a run */
    void *context;
    bool is_ending;
    uint32_t member_count;
    uint32_t started_count; /* threads, below member_count */
    struct cpu_team_member members[CPU_TEAM_MAX];
};

static inline void pause_once(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void park(struct cpu_team *team, uint32_t turn)
{
    /* Sequentially consistent on both sides: either the releaser sees us in `parked`, or the
     * kernel sees the new turn and does not put us to sleep. */
    atomic_fetch_add_explicit(&team->parked, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&team->turn, memory_order_seq_cst) == turn)
        (void)syscall(SYS_futex, &team->turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
    atomic_fetch_sub_explicit(&team->parked, 1, memory_order_relaxed);
}

static void wait_turn(struct cpu_team *team, uint32_t turn)
{
    uint32_t limit = atomic_load_explicit(&team->spin_limit, memory_order_relaxed);
    for (uint32_t i = 0; i < limit; i++) {
        /* pairs with the store in cpu_team_barrier */
        if (atomic_load_explicit(&team->turn, memory_order_acquire) != turn) {
            if (limit < SPIN_MAX)
                atomic_store_explicit(&team->spin_limit, limit + 16, memory_order_relaxed);
            return;
        }
        pause_once();
    }
    if (limit > SPIN_MIN)
        atomic_store_explicit(&team->spin_limit, limit - limit / 8, memory_order_relaxed);
    park(team, turn);
}

void cpu_team_barrier(struct cpu_team *team)
{
    uint32_t turn = atomic_load_explicit(&team->turn, memory_order_relaxed);
    /* Release what we wrote, acquire what those before us wrote. */
    uint32_t before = atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel);
    FM_ASSERT(before < team->member_count);
    if (before + 1 < team->member_count) {
        wait_turn(team, turn);
        return;
    }
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->turn, turn + 1, memory_order_seq_cst);
    if (atomic_load_explicit(&team->parked, memory_order_seq_cst) != 0)
        (void)syscall(SYS_futex, &team->turn, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void *member_main(void *arg)
{
    struct cpu_team_member *member = arg;
    struct cpu_team *team = member->team;
    (void)fm_numeric_enter();
    for (;;) {
        fm_thread_idle(true);
        cpu_team_barrier(team);
        fm_thread_idle(false);
        if (team->is_ending)
            return NULL;
        team->body(team->context, member->index);
        fm_thread_beat();
        cpu_team_barrier(team);
    }
}

void cpu_team_run(struct cpu_team *team, cpu_team_body body, void *context)
{
    FM_ASSERT(body != NULL);
    if (team->member_count == 1) {
        body(context, 0);
        return;
    }
    team->body = body;
    team->context = context;
    cpu_team_barrier(team);
    body(context, 0);
    cpu_team_barrier(team);
}

enum fm_status cpu_team_new(uint32_t member_count, struct cpu_team **ret_team, struct fm_err *err)
{
    FM_ASSERT(member_count >= 1 && member_count <= CPU_TEAM_MAX);
    FM_ASSERT(ret_team != NULL);
    struct cpu_team *team = fm_alloc_aligned(128, sizeof *team);
    if (team == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a team of %u threads", member_count);
    atomic_init(&team->spin_limit, SPIN_MAX);
    team->member_count = member_count;

    for (uint32_t i = 1; i < member_count; i++) {
        struct cpu_team_member *member = &team->members[i];
        char name[FM_THREAD_NAME_BYTES];
        (void)snprintf(name, sizeof name, "team-%u", i);
        *member = (struct cpu_team_member){.team = team, .index = i};
        enum fm_status status =
            fm_thread_start(name, FM_THREAD_TEAM, member_main, member, &member->thread, err);
        if (status != FM_OK) {
            cpu_team_free(team);
            return status;
        }
        team->started_count = i;
    }
    *ret_team = team;
    return FM_OK;
}

void cpu_team_free(struct cpu_team *team)
{
    if (team == NULL)
        return;
    team->is_ending = true;
    if (team->started_count > 0) {
        /* arrive for those that could not be started, then for ourselves */
        uint32_t missing = team->member_count - 1 - team->started_count;
        atomic_fetch_add_explicit(&team->arrived, missing, memory_order_relaxed);
        cpu_team_barrier(team);
    }
    for (uint32_t i = 1; i <= team->started_count; i++)
        fm_thread_join(team->members[i].thread);
    fm_free(team);
}

uint32_t cpu_team_member_count(const struct cpu_team *team)
{
    return team->member_count;
}
