/* Preloaded into a server's processes: their wall clock, shifted by as many seconds as stand in the file that FAULT_CLOCK names.
   Waits for a moment of that clock are woken each second, which POSIX allows, so that they meet a jump as with a real clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void open_shift(void) {
    const char *path = getenv("FAULT_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    shift = mapped == MAP_FAILED ? NULL : mapped;
}

static int64_t shifted_by(void) { return shift ? *shift : 0; }

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && is_wall(clock))
        now->tv_sec += shifted_by();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    now->tv_sec = wall.tv_sec;
    now->tv_usec = wall.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    if (seconds)
        *seconds = wall.tv_sec;
    return wall.tv_sec;
}

/* Whether a moment is one of the wall clock: those of the monotonic one are of the machine's uptime. */
static int of_wall(const struct timespec *moment) { return shift && moment->tv_sec > 1000000000; }

/* The kernel's own time at which to look again: at the moment asked for, or in a second. False if the moment has come. */
static int next_look(const struct timespec *moment, struct timespec *look) {
    syscall(SYS_clock_gettime, CLOCK_REALTIME, look);
    int64_t left = (int64_t)(moment->tv_sec - shifted_by() - look->tv_sec) * 1000000000 + (moment->tv_nsec - look->tv_nsec);
    if (left <= 0)
        return 0;
    if (left > 1000000000) {
        look->tv_sec += 1;
    } else {
        look->tv_sec = moment->tv_sec - shifted_by();
        look->tv_nsec = moment->tv_nsec;
    }
    return 1;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict moment) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real)
        real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!of_wall(moment))
        return real(condition, mutex, moment);
    struct timespec look;
    int more = next_look(moment, &look);
    int result = real(condition, mutex, &look);
    return result == ETIMEDOUT && more ? 0 : result;
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict moment) {
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    struct timespec look;
    int result = ETIMEDOUT, more = 1;
    while (result == ETIMEDOUT && more) {
        more = next_look(moment, &look);
        result = real(mutex, &look);
    }
    return result;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict moment) {
    static int (*real)(sem_t *, const struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec look;
    int result = -1, more = 1;
    errno = ETIMEDOUT;
    while (result != 0 && errno == ETIMEDOUT && more) {
        more = next_look(moment, &look);
        result = real(semaphore, &look);
    }
    return result;
}
