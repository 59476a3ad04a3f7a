/* Bends the machine's uptime by as many seconds as the file says that also bends the wall clock ("+N"), for the programs that it is
   loaded into. libfaketime leaves that clock alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int outcome = next(clock, now);
    const char *path = getenv("FAKETIME_TIMESTAMP_FILE");
    if (clock != CLOCK_BOOTTIME || outcome != 0 || !path) return outcome;
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return outcome;
    if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
    close(file);
    return outcome;
}
