/* fault.h - failures on demand, for tests: the nth allocation, read, write or device call.
 *
 * A point is a name ("alloc", "read", "submit").  Disarmed, a hit costs one relaxed load.  Only
 * one point is armed at a time; the count is shared by all threads. */
#ifndef FM_FAULT_H
#define FM_FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* Fail the nth hit (from 1) of the point, once; `forever` fails it and all that follow.  `point`
 * must be a string that outlives the arming. */
void fm_fault_arm(const char *point, uint64_t nth);
void fm_fault_arm_forever(const char *point, uint64_t nth);

/* Back to normal; true if a hit was failed since the point was armed. */
bool fm_fault_disarm(const char *point);

/* For code under test: true means behave as if the operation had failed. */
bool fm_fault_hit(const char *point);

#endif
