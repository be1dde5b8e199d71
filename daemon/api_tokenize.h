/* api_tokenize.h - POST /tokenize and /detokenize: text and token ids without inference.
 *
 * The tokens of `messages` are those that the same chat would be answered from. */
#ifndef API_TOKENIZE_H
#define API_TOKENIZE_H

#include "backends/base/buf.h"
#include "daemon/api_request.h"

struct srv_handler;

/* Bind with a struct api_service as context. */
extern const struct srv_handler api_tokenize_handler;
extern const struct srv_handler api_detokenize_handler;

/* Exposed for tests: the answer to a body, with its newline.  FM_INVALID: *ret_problem. */
enum fm_status api_tokenize(const struct api_model *model, const struct srv_config *config,
                            struct eng_slice body, struct fm_buf *out,
                            struct srv_error *ret_problem) FM_MUST_CHECK;
enum fm_status api_detokenize(const struct api_model *model, const struct srv_config *config,
                              struct eng_slice body, struct fm_buf *out,
                              struct srv_error *ret_problem) FM_MUST_CHECK;

#endif
