/* What the bench profiles: a stack of known depth without frame pointers.
 *
 *     main -> small -> large -> small -> … -> bottom     DEPTH frames in all, the time at the bottom
 *
 * Usage: frames DEPTH [PERCENT]. Runs until it is killed; PERCENT is its share of a CPU, 100 unless
 * given. Compiled with -O2 -fomit-frame-pointer. An empty asm behind a call keeps it a call.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define FRAME __attribute__((noinline, noclone))
#define KEEP_FRAME() __asm__ volatile("" ::: "memory")

enum { SLICE_NS = 10 * 1000 * 1000 };

static volatile uint64_t sink;
static int percent = 100;

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

FRAME static void bottom(void)
{
    for (;;) {
        int64_t end = now_ns() + (int64_t)SLICE_NS * percent / 100;
        struct timespec rest = {0, (int64_t)SLICE_NS * (100 - percent) / 100};

        do {
            for (int i = 0; i < 20000; i++)
                sink = sink * 6364136223846793005u + 1442695040888963407u;
        } while (now_ns() < end);
        if (percent < 100)
            nanosleep(&rest, NULL);
    }
}

FRAME static void small(int levels);

FRAME static void large(int levels)
{
    volatile char room[200];

    room[levels % 200] = 1;
    if (levels > 1)
        small(levels - 1);
    else
        bottom();
    room[levels % 200] = 2;
    KEEP_FRAME();
}

FRAME static void small(int levels)
{
    if (levels > 1)
        large(levels - 1);
    else
        bottom();
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    int depth = argc > 1 ? atoi(argv[1]) : 0;

    if (argc > 2)
        percent = atoi(argv[2]);
    if (depth < 3 || percent < 1 || percent > 100) {
        fputs("usage: frames DEPTH [PERCENT], DEPTH at least 3\n", stderr);
        return 2;
    }
    /* main and bottom are two of them. */
    small(depth - 2);
    KEEP_FRAME();
    return 0;
}
