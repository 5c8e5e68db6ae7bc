/* What a load counts, and how it prints that as JSON. */
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#define SECOND 1000000000ull
#define PATIENCE (5 * SECOND)

enum failure { REFUSED, RESET, WRONG, EARLY, LATE, FAILURES };
static const char *const FAILURE_NAMES[] = {"refused", "reset", "wrong", "early", "timeout"};

static uint64_t until, done, after, skipped, elsewhere, again, failed[FAILURES];
static uint32_t *times;  /* microseconds of every good one */
static size_t times_length, times_room;

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}

static void good(uint64_t began) {
    uint64_t at = now();
    if (times_length == times_room) {
        times_room = times_room ? 2 * times_room : 65536;
        if (!(times = realloc(times, times_room * sizeof *times))) err(71, "memory");
    }
    times[times_length++] = (at - began) / 1000;
    if (at <= until) done++;
    else after++;
}

static int by_value(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static unsigned at(double part) {
    return times_length ? times[(size_t)(part * (times_length - 1))] : 0;
}

/* `more`: members of the object that only this load has, each with a comma behind it. */
static void print_figures(double seconds, const char *more) {
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    qsort(times, times_length, sizeof *times, by_value);
    printf("{%s\"done\": %ju, \"after\": %ju, \"skipped\": %ju, \"elsewhere\": %ju, ", more,
           (uintmax_t)done, (uintmax_t)after, (uintmax_t)skipped, (uintmax_t)elsewhere);
    printf("\"again\": %ju, ", (uintmax_t)again);
    printf("\"seconds\": %g, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u, ", seconds,
           at(0.5), at(0.99), at(1));
    for (int i = 0; i < FAILURES; i++)
        printf("\"%s\": %ju, ", FAILURE_NAMES[i], (uintmax_t)failed[i]);
    printf("\"cpu_s\": %.6f}\n", own.ru_utime.tv_sec + own.ru_stime.tv_sec +
           (own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6);
}
