// Loaded in front of libc's ptrace for User-Mode Linux 6.1 on processors it does not know.
//
// The kernel takes the extended registers of a traced process (PTRACE_SETREGSET, NT_X86_XSTATE) only
// as a whole, and User-Mode Linux has 2696 bytes for them: up to AVX-512 and the protection keys.
// Where the processor has more (11008 bytes with AMX), nothing can be set and no process would ever
// run. What is missing is added here in its initial state, which is the only one it can be in: no
// guest process has asked for AMX.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

// More than any processor has today.
#define WHOLE 16384
// XSAVE header: which components are not in their initial state.
#define HEADER 512
// x87, SSE, AVX, AVX-512 (3) and PKRU: what fits into User-Mode Linux' own 2696 bytes.
#define KNOWN 0x2e7ull
// A signal in the middle of a call may make another one; each has a buffer of its own.
#define CALLS 256

static struct {
    atomic_flag taken;
    char bytes[WHOLE];
} buffers[CALLS];

typedef long call(int, pid_t, void *, void *);

static long set_whole(call *next, pid_t pid, struct iovec *given, size_t whole) {
    for (int i = 0; i < CALLS; i++) {
        if (atomic_flag_test_and_set(&buffers[i].taken))
            continue;
        char *bytes = buffers[i].bytes;
        struct iovec all = {bytes, whole};
        unsigned long long components;
        memset(bytes, 0, whole);
        memcpy(bytes, given->iov_base, given->iov_len);
        memcpy(&components, bytes + HEADER, sizeof components);
        components &= KNOWN;
        memcpy(bytes + HEADER, &components, sizeof components);
        long result = next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &all);
        atomic_flag_clear(&buffers[i].taken);
        return result;
    }
    errno = EBUSY;
    return -1;
}

// How many bytes the kernel wants; 0 when it does not say.
static size_t ask(call *next, pid_t pid) {
    static char bytes[WHOLE];
    struct iovec all = {bytes, WHOLE};
    return next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &all) == 0 ? all.iov_len : 0;
}

long ptrace(enum __ptrace_request request, ...) {
    static call *next;
    static size_t whole;
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *addr = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);
    if (next == NULL)
        next = (call *)dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE) {
        struct iovec *given = data;
        if (whole == 0)
            whole = ask(next, pid);
        if (whole > given->iov_len && given->iov_len >= HEADER + 64)
            return set_whole(next, pid, given, whole);
    }
    return next(request, pid, addr, data);
}
