/* What would be chance in a simulation, or differ from run to run, follows from ROOKERY_SIM_SEED instead: random octets
 * (of which hash maps, the runtime and `rand` make theirs), and the wall clock: with one seed in three it stands still,
 * with the others it stands still for some time, and then leaps forth or back by up to twenty minutes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

static __thread uint64_t state;

static uint64_t next(void) {
    if (state == 0) {
        const char *seed = getenv("ROOKERY_SIM_SEED");
        state = seed == NULL ? 1 : strtoull(seed, NULL, 10) * 2 + 1;
    }
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *to, size_t octets, unsigned flags) {
    (void)flags;
    for (size_t at = 0; at < octets; at++) ((uint8_t *)to)[at] = (uint8_t)(next() >> 32);
    return (ssize_t)octets;
}

/* Whoever looks sees the same for 32 times. */
static time_t leaps(void) {
    static __thread uint64_t looks;
    const char *seed = getenv("ROOKERY_SIM_SEED");
    uint64_t z = seed == NULL ? 0 : strtoull(seed, NULL, 10);
    if (z % 3 == 0) return 0;
    z = (z ^ ((looks++ / 32) << 32)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 29)) * 0x94d049bb133111eb;
    return (time_t)((z >> 32) % 1200);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        now->tv_sec = 1800000000 + leaps();
        now->tv_nsec = 0;
        return 0;
    }
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, now);
}
