/* outlet.h - the way out of the output parser: visible text and tool pieces, in order.
 *
 * Text comes in byte by byte and leaves as valid UTF-8, without anything that a stop string may
 * still claim.  Each byte remembers the token that it came from.  A failure sticks in `status`, and
 * what comes after it is dropped. */
#ifndef ENG_OUTLET_H
#define ENG_OUTLET_H

#include "engine/text.h"

struct eng_outlet {
    struct eng_piece *pieces; /* of this feed; data is set by eng_outlet_seal */
    uint32_t piece_count, piece_capacity;
    struct fm_buf data; /* their bytes, one after the other */

    enum eng_piece_kind channel; /* of the text in pending */
    struct eng_detok detok;
    uint32_t detok_token;  /* where the held bytes began */
    struct fm_buf pending; /* text that was not given out yet */
    struct fm_buf tokens;  /* one uint32_t for each byte of it */

    char *stop_bytes;
    struct eng_slice stops[ENG_STOPS_MAX]; /* into stop_bytes */
    uint32_t stop_count;
    size_t stop_bytes_max; /* of the longest */
    bool starts_a_stop[UINT8_MAX + 1];
    bool shows_stop;
    bool is_stopped; /* a stop string was met; no more text goes out */
    uint32_t stop_index;

    enum fm_status status;
};

/* FM_INVALID: stop strings beyond their limits; FM_NOMEM. */
enum fm_status eng_outlet_init(struct eng_outlet *outlet, const struct eng_parser_spec *spec,
                               struct fm_err *err) FM_MUST_CHECK;
void eng_outlet_done(struct eng_outlet *outlet);

/* A new feed: the pieces of the one before are gone. */
void eng_outlet_begin(struct eng_outlet *outlet);

/* One byte of visible text.  A change of channel needs eng_outlet_close_text before. */
void eng_outlet_text(struct eng_outlet *outlet, enum eng_piece_kind channel, uint8_t byte,
                     uint32_t token);

/* Look for stop strings and give out what none can claim.  At the end of a feed. */
void eng_outlet_settle(struct eng_outlet *outlet);

/* The text ends here: nothing is held back any more. */
void eng_outlet_close_text(struct eng_outlet *outlet);

/* A piece of a tool call.  Fragments of one call's arguments that follow each other become one. */
void eng_outlet_tool(struct eng_outlet *outlet, enum eng_piece_kind kind, uint32_t call_index,
                     const char *data, size_t length, uint32_t token);

/* The pieces of this feed, valid until the next eng_outlet_begin. */
void eng_outlet_seal(struct eng_outlet *outlet, const struct eng_piece **ret_pieces,
                     uint32_t *ret_count);

#endif
