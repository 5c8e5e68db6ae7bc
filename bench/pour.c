/* Stand at the ends of a pipeline.

       pour SECONDS    write noise to stdout for so long, and how much that was to stderr
       pour            read stdin to its end, compare, print figures as JSON to stdout

   The noise is a block of a prime size again and again, so a piece that is lost, doubled or
   moved is a wrong one. The time runs from the first byte that comes to the last, and so holds
   no start of any stage. */
#define _GNU_SOURCE
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define BLOCK 65521
#define PIECE 65536

static char noise[BLOCK + PIECE], incoming[PIECE];

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}

static void pour(double seconds) {
    uint64_t count = 0, until = now() + (uint64_t)(seconds * SECOND);
    while (now() < until) {
        ssize_t n = write(1, noise + count % BLOCK, PIECE);
        if (n < 0) err(74, "write");
        count += n;
    }
    fprintf(stderr, "poured %ju\n", (uintmax_t)count);
}

static void drain(void) {
    uint64_t count = 0, first = 0, last = 0, wrong = 0;
    for (ssize_t n; (n = read(0, incoming, PIECE)); count += n) {
        if (n < 0) err(74, "read");
        last = now();
        if (!first) first = last;
        wrong += memcmp(incoming, noise + count % BLOCK, n) != 0;
    }
    printf("{\"bytes\": %ju, \"wrong\": %ju, \"first_s\": %.6f, \"seconds\": %.6f}\n",
           (uintmax_t)count, (uintmax_t)wrong, first / 1e9, (last - first) / 1e9);
}

int main(int argc, char **argv) {
    srandom(1);
    for (size_t i = 0; i < BLOCK; i++) noise[i] = random();
    for (size_t i = BLOCK; i < sizeof noise; i++) noise[i] = noise[i - BLOCK];
    if (argc > 1) pour(atof(argv[1]));
    else drain();
}
