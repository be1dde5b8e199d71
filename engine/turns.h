/* turns.h - a conversation as the turns that the prompt format knows.
 *
 * Messages become turns: neighbouring user messages and tool results are one, tool results stand in
 * the order of their calls, earlier reasoning is gone where the format drops it. */
#ifndef ENG_TURNS_H
#define ENG_TURNS_H

#include "engine/text.h"

struct eng_turn {
    enum eng_role role; /* never ENG_ROLE_TOOL */
    enum eng_task task;
    const struct eng_message *message; /* the first of the turn; NULL: a system message of ours */
    const struct eng_message **blocks; /* user: the messages that it unites */
    uint32_t block_count;
    const struct eng_tools *tools; /* to be printed behind it */
    struct eng_slice format;       /* likewise */
    bool loses_reasoning;
};

struct eng_turns {
    const struct eng_chat *chat;
    struct eng_turn *turns;
    uint32_t count;
    uint32_t last_user;   /* 1 + the index of the last user or developer turn; 0: there is none */
    bool drops_reasoning; /* of turns before the last user turn */
    const struct eng_message **blocks;
};

/* The turns of a chat, which must outlive them.  FM_INVALID: a message that the format cannot say;
 * FM_NOMEM. */
enum fm_status eng_turns_init(struct eng_turns *turns, const struct eng_chat *chat,
                              struct fm_err *err) FM_MUST_CHECK;
void eng_turns_done(struct eng_turns *turns);

static inline bool eng_role_is_user(enum eng_role role)
{
    return role == ENG_ROLE_USER || role == ENG_ROLE_DEVELOPER;
}

#endif
