"""A wall clock that is wrong, for programs that a test starts: it can be set while they run."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

from tests.support.tools import need_tool

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *ahead;
static int (*real)(clockid_t, struct timespec *);

static void __attribute__((constructor)) begin(void) {
    real = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("FAULT_CLOCK");
    int handle = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (handle < 0) return;
    void *page = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, handle, 0);
    close(handle);
    if (page != MAP_FAILED) ahead = page;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, at);
    if (result == 0 && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        at->tv_sec += (time_t)*ahead;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class FaultClock:
    """The wall clock of programs that run with :attr:`environment`; their monotonic one is right.

    Args:
        folder: for its files.
        ahead_s: how far it is ahead; may be negative.
    """

    def __init__(self, folder: Path, ahead_s: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        compiler = need_tool("cc")
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SOURCE)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True
        )
        page = folder / "ahead"
        page.write_bytes(struct.pack("d", ahead_s))
        with page.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(page)}

    def set(self, ahead_s: float) -> None:
        """Sets the clock, also of programs that run."""
        self._page[:] = struct.pack("d", ahead_s)
