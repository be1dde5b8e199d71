/* turns.c - the steps of the published encoder that come before it prints; see turns.h. */
#include "engine/turns.h"

#include <stdlib.h>
#include <string.h>

#include "backends/base/mem.h"

static bool content_is_empty(const struct eng_message *message)
{
    for (uint32_t i = 0; i < message->part_count; i++) {
        if (message->parts[i].length != 0)
            return false;
    }
    return true;
}

static enum fm_status chat_check(const struct eng_chat *chat, struct fm_err *err)
{
    for (uint32_t i = 0; i < chat->message_count; i++) {
        const struct eng_message *message = &chat->messages[i];
        if (message->is_open && (message->role != ENG_ROLE_ASSISTANT ||
                                 i + 1 != chat->message_count || message->call_count != 0))
            return FM_FAIL(err, FM_INVALID,
                           "messages[%u]: only the last message can be continued, if it is the "
                           "assistant's and has no tool calls",
                           i);
        if (message->role == ENG_ROLE_DEVELOPER && content_is_empty(message))
            return FM_FAIL(err, FM_INVALID, "messages[%u]: a developer message is empty", i);
    }
    return FM_OK;
}

/* An API's history may end in an answer that never came. */
static bool is_dropped(const struct eng_chat *chat, uint32_t index)
{
    const struct eng_message *message = &chat->messages[index];
    return !chat->is_literal && index + 1 == chat->message_count &&
           message->role == ENG_ROLE_ASSISTANT && !message->is_open && message->call_count == 0 &&
           content_is_empty(message);
}

static void merge(struct eng_turns *plan)
{
    const struct eng_chat *chat = plan->chat;
    for (uint32_t i = 0; i < chat->message_count; i++) {
        const struct eng_message *message = &chat->messages[i];
        struct eng_turn *last = plan->count != 0 ? &plan->turns[plan->count - 1] : NULL;
        bool is_block = message->role == ENG_ROLE_USER || message->role == ENG_ROLE_TOOL;
        plan->blocks[i] = message;
        if (is_dropped(chat, i))
            continue;
        if (is_block && last != NULL && last->role == ENG_ROLE_USER &&
            (message->role == ENG_ROLE_TOOL || last->task == ENG_TASK_NONE)) {
            last->block_count++;
            continue;
        }
        struct eng_turn *turn = &plan->turns[plan->count++];
        *turn = (struct eng_turn){.role = message->role, .task = message->task, .message = message};
        if (is_block) {
            turn->role = ENG_ROLE_USER;
            turn->task = message->role == ENG_ROLE_TOOL ? ENG_TASK_NONE : message->task;
            turn->blocks = &plan->blocks[i];
            turn->block_count = 1;
        } else {
            turn->tools = message->tools;
            turn->format = message->response_format;
        }
    }
}

/* The request's own tools and format: on the first message if it is a system message, else on an
 * empty one in front.  turns has room for one more. */
static void place(struct eng_turns *plan)
{
    const struct eng_chat *chat = plan->chat;
    bool has_tools = eng_tools_count(chat->tools) != 0;
    if (!has_tools && chat->response_format.data == NULL)
        return;
    if (plan->count == 0 || plan->turns[0].role != ENG_ROLE_SYSTEM) {
        memmove(plan->turns + 1, plan->turns, plan->count * sizeof plan->turns[0]);
        plan->turns[0] = (struct eng_turn){.role = ENG_ROLE_SYSTEM};
        plan->count++;
    }
    if (has_tools)
        plan->turns[0].tools = chat->tools;
    if (chat->response_format.data != NULL)
        plan->turns[0].format = chat->response_format;
}

struct call_place {
    struct eng_slice id;
    uint32_t place;                    /* among the calls, or of a result */
    const struct eng_message *message; /* of a result */
    uint32_t order;
};

static int id_compare(const void *a, const void *b)
{
    const struct call_place *left = a, *right = b;
    size_t common = left->id.length < right->id.length ? left->id.length : right->id.length;
    int order = common != 0 ? memcmp(left->id.data, right->id.data, common) : 0;
    if (order == 0)
        order = (left->id.length > right->id.length) - (left->id.length < right->id.length);
    return order;
}

static int id_place_compare(const void *a, const void *b)
{
    const struct call_place *left = a, *right = b;
    int order = id_compare(a, b);
    return order != 0 ? order : (left->place > right->place) - (left->place < right->place);
}

static int result_compare(const void *a, const void *b)
{
    const struct call_place *left = a, *right = b;
    if (left->place != right->place)
        return left->place > right->place ? 1 : -1;
    return (left->order > right->order) - (left->order < right->order);
}

/* Put the tool results of a turn in the order of the calls; other blocks keep their slots.  Results
 * of unknown calls count as of the first one. */
static enum fm_status results_sort(struct eng_turn *turn, const struct eng_message *caller,
                                   struct fm_err *err)
{
    uint32_t call_count = 0, result_count = 0;
    for (uint32_t i = 0; i < turn->block_count; i++)
        result_count += turn->blocks[i]->role == ENG_ROLE_TOOL;
    if (result_count < 2)
        return FM_OK;
    struct call_place *calls =
        fm_alloc_array((size_t)caller->call_count + result_count, sizeof calls[0]);
    if (calls == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u tool results", result_count);

    for (uint32_t i = 0; i < caller->call_count; i++) {
        if (caller->calls[i].id.length != 0)
            calls[call_count++] = (struct call_place){.id = caller->calls[i].id, .place = i};
    }
    qsort(calls, call_count, sizeof calls[0], id_place_compare);
    uint32_t kept = 0; /* of equal ids the last one counts */
    for (uint32_t i = 0; i < call_count; i++) {
        if (i + 1 == call_count || id_compare(&calls[i], &calls[i + 1]) != 0)
            calls[kept++] = calls[i];
    }
    struct call_place *results = calls + caller->call_count;
    for (uint32_t i = 0, n = 0; i < turn->block_count; i++) {
        const struct eng_message *message = turn->blocks[i];
        if (message->role != ENG_ROLE_TOOL)
            continue;
        struct call_place *result = &results[n];
        *result = (struct call_place){message->tool_call_id, 0, message, n};
        const struct call_place *call =
            kept != 0 ? bsearch(result, calls, kept, sizeof calls[0], id_compare) : NULL;
        result->place = call != NULL ? call->place : 0;
        n++;
    }
    qsort(results, result_count, sizeof results[0], result_compare);
    for (uint32_t i = 0, n = 0; i < turn->block_count; i++) {
        if (turn->blocks[i]->role == ENG_ROLE_TOOL)
            turn->blocks[i] = results[n++].message;
    }
    fm_free(calls);
    return FM_OK;
}

static enum fm_status sort(struct eng_turns *plan, struct fm_err *err)
{
    const struct eng_message *caller = NULL;
    for (uint32_t i = 0; i < plan->count; i++) {
        struct eng_turn *turn = &plan->turns[i];
        if (turn->role == ENG_ROLE_ASSISTANT && turn->message->call_count != 0)
            caller = turn->message;
        if (turn->role != ENG_ROLE_USER || caller == NULL)
            continue;
        enum fm_status status = results_sort(turn, caller, err);
        if (status != FM_OK)
            return status;
    }
    return FM_OK;
}

static void last_user_find(struct eng_turns *plan)
{
    plan->last_user = 0;
    for (uint32_t i = 0; i < plan->count; i++) {
        if (eng_role_is_user(plan->turns[i].role))
            plan->last_user = i + 1;
    }
}

/* Without tools, reasoning before the last user turn goes, and developer messages with it. */
static void drop(struct eng_turns *plan)
{
    plan->drops_reasoning = !plan->chat->keeps_reasoning;
    for (uint32_t i = 0; i < plan->count; i++) {
        if (eng_tools_count(plan->turns[i].tools) != 0)
            plan->drops_reasoning = false;
    }
    last_user_find(plan);
    if (!plan->chat->is_thinking || !plan->drops_reasoning || plan->last_user == 0)
        return;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < plan->count; i++) {
        bool is_earlier = i + 1 < plan->last_user;
        if (is_earlier && plan->turns[i].role == ENG_ROLE_DEVELOPER)
            continue;
        plan->turns[kept] = plan->turns[i];
        plan->turns[kept].loses_reasoning = is_earlier;
        kept++;
    }
    plan->count = kept;
    last_user_find(plan);
}

enum fm_status eng_turns_init(struct eng_turns *turns, const struct eng_chat *chat,
                              struct fm_err *err)
{
    struct eng_turns plan = {.chat = chat};
    enum fm_status status = chat_check(chat, err);
    if (status != FM_OK)
        return status;
    plan.turns = fm_alloc_array((size_t)chat->message_count + 1, sizeof plan.turns[0]);
    plan.blocks =
        fm_alloc_array((size_t)chat->message_count + 1, sizeof(const struct eng_message *));
    if (plan.turns == NULL || plan.blocks == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for %u messages", chat->message_count);
        goto out_done;
    }
    merge(&plan);
    status = sort(&plan, err);
    if (status != FM_OK)
        goto out_done;
    place(&plan);
    drop(&plan);
    *turns = plan;
    return FM_OK;
out_done:
    eng_turns_done(&plan);
    return status;
}

void eng_turns_done(struct eng_turns *turns)
{
    fm_free(turns->turns);
    fm_free((void *)turns->blocks);
    turns->turns = NULL;
    turns->blocks = NULL;
}
