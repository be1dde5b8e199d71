/* output.h - from drawn tokens to pieces in the stream.
 *
 * A drawn token goes to the choice's parser; what the parser can tell becomes pieces.  Pieces that
 * do not fit the ring wait, in order, in the request's backlog: then the request is not stepped
 * until the reader has taken them (loop.c).  The ring always keeps room for the END of every
 * choice and for DONE, so that a request can be ended whatever its reader does.
 *
 * Owner: the scheduler thread. */
#ifndef SCH_OUTPUT_H
#define SCH_OUTPUT_H

#include "scheduler/request.h"

/* Bytes that a ring must have at least for requests of `choices` choices. */
size_t sch_output_ring_bytes_min(uint32_t choices);

/* The next token of the choice.  Afterwards choice->is_ended says whether it was the last. */
void sch_output_token(struct sch_choice *choice, const struct eng_drawn *drawn,
                      const struct eng_text *text);

/* The log probability of prompt[index]; drawn NULL: there is none (the first token). */
void sch_output_prompt(struct sch_request *req, uint32_t index, const struct eng_drawn *drawn);

/* End the choice: what the parser holds back comes out (but not when it was given up), then END. */
void sch_output_end(struct sch_choice *choice, enum sch_end end);

/* Move what waits into the ring.  true: something was moved. */
bool sch_output_flush(struct sch_request *req);
bool sch_output_is_behind(const struct sch_request *req);

/* All choices have ended. */
bool sch_output_is_complete(const struct sch_request *req);

/* The last records: what waits is dropped, choices whose END is not in the ring end as `end`, then
 * DONE.  With all choices ended and nothing waiting this is DONE alone. */
void sch_output_close(struct sch_request *req, enum sch_end end);

#endif
