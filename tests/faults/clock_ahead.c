/* Loaded before a server (LD_PRELOAD), so that its wall clock is CLOCK_AHEAD seconds ahead, or behind if negative.
 *
 * Time goes by as elsewhere, and the monotonic clock stays. What waits until a moment of the wall clock is woken at that
 * moment as the process sees it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#define LONG_PAST 1000000000

static time_t ahead;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void learn(void) {
    const char *told = getenv("CLOCK_AHEAD");
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    ahead = told ? atol(told) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    if (!real_clock_gettime)
        learn();
    int failed = real_clock_gettime(clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict told, pthread_mutex_t *restrict lock,
                           const struct timespec *restrict until) {
    struct timespec real = *until;
    /* A condition may go by the monotonic clock, which begins with the machine: such moments are long past. */
    if (until->tv_sec < LONG_PAST)
        return pthread_cond_clockwait(told, lock, CLOCK_MONOTONIC, until);
    real.tv_sec -= ahead;
    return pthread_cond_clockwait(told, lock, CLOCK_REALTIME, &real);
}
