/* The ring of pieces between scheduler and main thread: order, room, news, and who frees. */
#include <math.h>
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/thread.h"
#include "scheduler/stream.h"
#include "tests/support/support.h"

static struct fm_mailbox *inbox, *ready;
static struct sch_gate gate;

static void setup(void)
{
    ck_assert_int_eq(fm_mailbox_new(false, &inbox, NULL), FM_OK);
    ck_assert_int_eq(fm_mailbox_new(true, &ready, NULL), FM_OK);
    sch_gate_init(&gate, inbox);
}

static void teardown(void)
{
    while (fm_mailbox_poll(inbox) != NULL)
        continue;
    fm_mailbox_free(inbox);
    fm_mailbox_free(ready);
}

static struct sch_stream *stream_make(size_t bytes)
{
    struct sch_stream *stream = NULL;
    ck_assert_int_eq(sch_stream_new(bytes, &gate, &stream, NULL), FM_OK);
    return stream;
}

static struct sch_piece text_piece(uint32_t bytes)
{
    return (struct sch_piece){.kind = SCH_PIECE_CONTENT, .byte_count = bytes};
}

static enum fm_status next(struct sch_stream *stream, struct sch_piece *ret_piece, char *ret_bytes)
{
    struct eng_candidate candidates[ENG_LOGPROBS_MAX];
    return sch_stream_next(stream, ret_piece, candidates, ret_bytes);
}

START_TEST(pieces_come_out_as_they_went_in)
{
    struct sch_stream *stream = stream_make(1 << 14);
    struct sch_piece piece = text_piece(5), got;
    struct eng_candidate candidates[ENG_LOGPROBS_MAX] = {{7, -1.5f}, {3, -2.5f}}, seen[20];
    char bytes[SCH_PIECE_BYTES_MAX + 1];
    ck_assert_int_eq(next(stream, &got, bytes), FM_AGAIN);
    ck_assert(sch_stream_put(stream, &piece, "hello", 0));
    piece = (struct sch_piece){
        .kind = SCH_PIECE_TOKEN, .token = 7, .logprob = -1.5f, .candidate_count = 2};
    ck_assert(sch_stream_put(stream, &piece, candidates, 0));
    piece = (struct sch_piece){.kind = SCH_PIECE_DONE};
    ck_assert(sch_stream_put(stream, &piece, NULL, 0));

    ck_assert_int_eq(next(stream, &got, bytes), FM_OK);
    ck_assert_int_eq(got.kind, SCH_PIECE_CONTENT);
    ck_assert_str_eq(bytes, "hello");
    ck_assert_int_eq(sch_stream_next(stream, &got, seen, bytes), FM_OK);
    ck_assert_uint_eq(got.token, 7);
    ck_assert_uint_eq(seen[1].token, 3);
    ck_assert(seen[1].logprob == -2.5f);
    ck_assert_int_eq(next(stream, &got, bytes), FM_OK);
    ck_assert_int_eq(next(stream, &got, bytes), FM_END);
    sch_stream_finish(stream);
    sch_stream_close(stream);
}
END_TEST

START_TEST(spare_room_is_kept_and_a_piece_is_whole_or_absent)
{
    struct sch_stream *stream = stream_make(1024);
    static const char bytes[1024];
    struct sch_piece piece = text_piece((uint32_t)(1024 - sizeof piece));
    ck_assert(!sch_stream_put(stream, &piece, bytes, 1));
    ck_assert(sch_stream_put(stream, &piece, bytes, 0));
    piece = text_piece(0);
    ck_assert(!sch_stream_put(stream, &piece, NULL, 0));
    sch_stream_finish(stream);
    sch_stream_close(stream);
}
END_TEST

START_TEST(news_are_posted_once_until_they_are_fetched)
{
    struct sch_stream *stream = stream_make(1024);
    int owner;
    sch_stream_set_owner(stream, &owner);
    sch_stream_post(stream, ready);
    sch_stream_post(stream, ready);
    struct fm_link *link = fm_mailbox_poll(ready);
    ck_assert_ptr_nonnull(link);
    ck_assert_ptr_null(fm_mailbox_poll(ready));
    ck_assert_ptr_eq(sch_stream_of(link), stream);
    ck_assert_ptr_eq(sch_stream_owner(stream), &owner);
    sch_stream_post(stream, ready);
    ck_assert_ptr_eq(sch_stream_of(fm_mailbox_poll(ready)), stream);
    sch_stream_finish(stream);
    sch_stream_close(stream);
}
END_TEST

/* The address sanitizer says whether every order frees once. */
START_TEST(the_last_of_three_frees)
{
    static const char orders[][4] = {"cfo", "cof", "fco", "foc", "ocf", "ofc"};
    struct sch_stream *stream = stream_make(1024);
    bool is_closed = false;
    sch_stream_post(stream, ready);
    for (const char *step = orders[_i]; *step != '\0'; step++) {
        if (*step == 'c') {
            sch_stream_close(stream);
            is_closed = true;
        } else if (*step == 'f') {
            sch_stream_finish(stream);
        } else {
            struct sch_stream *got = sch_stream_of(fm_mailbox_poll(ready));
            ck_assert_ptr_eq(got, is_closed ? NULL : stream);
        }
    }
}
END_TEST

START_TEST(the_reader_rings_when_the_ring_is_half_empty)
{
    struct sch_stream *stream = stream_make(1024);
    struct sch_piece piece = text_piece((uint32_t)(256 - sizeof piece)), got;
    static const char bytes[1024];
    char read[SCH_PIECE_BYTES_MAX + 1];
    for (int i = 0; i < 4; i++)
        ck_assert(sch_stream_put(stream, &piece, bytes, 0));
    ck_assert(!sch_stream_ask_room(stream));
    ck_assert_int_eq(next(stream, &got, read), FM_OK);
    ck_assert_ptr_null(fm_mailbox_poll(inbox));
    ck_assert_int_eq(next(stream, &got, read), FM_OK);
    ck_assert_ptr_eq(fm_mailbox_poll(inbox), &gate.message.link);
    sch_gate_clear(&gate);
    ck_assert_int_eq(next(stream, &got, read), FM_OK);
    ck_assert_ptr_null(fm_mailbox_poll(inbox));
    ck_assert(sch_stream_ask_room(stream));
    sch_stream_finish(stream);
    sch_stream_close(stream);
}
END_TEST

START_TEST(closing_rings_unless_the_scheduler_is_through)
{
    struct sch_stream *stream = stream_make(1024);
    sch_stream_close(stream);
    ck_assert(sch_stream_is_closed(stream));
    ck_assert_ptr_eq(fm_mailbox_poll(inbox), &gate.message.link);
    sch_gate_clear(&gate);
    sch_stream_finish(stream);

    stream = stream_make(1024);
    sch_stream_finish(stream);
    sch_stream_close(stream);
    ck_assert_ptr_null(fm_mailbox_poll(inbox));
}
END_TEST

START_TEST(new_survives_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct sch_stream *stream = NULL;
        fm_fault_arm("alloc", nth);
        enum fm_status status = sch_stream_new(1024, &gate, &stream, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((stream != NULL) == (status == FM_OK));
        if (stream != NULL) {
            sch_stream_finish(stream);
            sch_stream_close(stream);
        }
    }
}
END_TEST

/* ---- two threads ---- */

enum { RECORDS = 200000 };

static void *producer(void *arg)
{
    struct sch_stream *stream = arg;
    for (uint32_t i = 0; i < RECORDS;) {
        char bytes[64];
        struct sch_piece piece = text_piece(i % 64);
        piece.token = i;
        memset(bytes, (int)(i % 251), sizeof bytes);
        if (sch_stream_put(stream, &piece, bytes, sizeof piece)) {
            i++;
            sch_stream_post(stream, ready);
        } else if (!sch_stream_ask_room(stream)) {
            struct fm_link *link = fm_mailbox_take(inbox); /* hangs if a ring is lost */
            ck_assert_ptr_eq(link, &gate.message.link);
            sch_gate_clear(&gate);
        }
    }
    struct sch_piece done = {.kind = SCH_PIECE_DONE};
    ck_assert(sch_stream_put(stream, &done, NULL, 0));
    sch_stream_post(stream, ready);
    sch_stream_finish(stream);
    return NULL;
}

START_TEST(no_piece_and_no_wake_up_is_lost_between_threads)
{
    struct sch_stream *stream = stream_make(1024);
    struct fm_thread *thread = NULL;
    struct fm_mailbox *plain = NULL;
    ck_assert_int_eq(fm_mailbox_new(false, &plain, NULL), FM_OK);
    fm_mailbox_free(ready);
    ready = plain; /* waited for here, without epoll */
    ck_assert_int_eq(
        fm_thread_start("producer", FM_THREAD_SCHEDULER, producer, stream, &thread, NULL), FM_OK);

    uint32_t count = 0;
    enum fm_status status = FM_AGAIN;
    while (status != FM_END) {
        struct sch_piece piece;
        char bytes[SCH_PIECE_BYTES_MAX + 1];
        status = next(stream, &piece, bytes);
        if (status == FM_AGAIN) {
            ck_assert_ptr_eq(sch_stream_of(fm_mailbox_take(ready)), stream);
        } else if (status == FM_OK && piece.kind != SCH_PIECE_DONE) {
            ck_assert_uint_eq(piece.token, count);
            ck_assert_uint_eq(strlen(bytes), count % 251 == 0 ? 0 : count % 64);
            if (piece.byte_count != 0)
                ck_assert_int_eq((unsigned char)bytes[piece.byte_count - 1], count % 251);
            count++;
        }
    }
    ck_assert_uint_eq(count, RECORDS);
    fm_thread_join(thread);
    struct fm_link *link = fm_mailbox_poll(ready);
    sch_stream_close(stream);
    if (link != NULL)
        ck_assert_ptr_null(sch_stream_of(link));
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("scheduler/stream");
    TCase *tcase = tcase_create("pieces");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, pieces_come_out_as_they_went_in);
    tcase_add_test(tcase, spare_room_is_kept_and_a_piece_is_whole_or_absent);
    tcase_add_test(tcase, news_are_posted_once_until_they_are_fetched);
    tcase_add_loop_test(tcase, the_last_of_three_frees, 0, 6);
    tcase_add_test(tcase, the_reader_rings_when_the_ring_is_half_empty);
    tcase_add_test(tcase, closing_rings_unless_the_scheduler_is_through);
    tcase_add_test(tcase, new_survives_every_alloc_failure);
    tcase_add_test(tcase, no_piece_and_no_wake_up_is_lost_between_threads);
    suite_add_tcase(suite, tcase);
    return suite;
}
