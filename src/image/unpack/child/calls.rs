//! The system calls that unpacking takes. A name that is only one architecture's is listed by it.

use libc::{
    SYS_brk, SYS_clock_gettime, SYS_clone, SYS_close, SYS_dup3, SYS_exit, SYS_exit_group,
    SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl, SYS_fsetxattr, SYS_fstat,
    SYS_fstatfs, SYS_ftruncate, SYS_futex, SYS_getdents64, SYS_getpid, SYS_getppid, SYS_getrandom,
    SYS_gettid, SYS_linkat, SYS_lseek, SYS_madvise, SYS_mkdirat, SYS_mknodat, SYS_mremap,
    SYS_munmap, SYS_newfstatat, SYS_openat, SYS_openat2, SYS_pidfd_open, SYS_pidfd_send_signal,
    SYS_ppoll, SYS_prctl, SYS_prlimit64, SYS_read, SYS_recvmsg, SYS_restart_syscall,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_seccomp, SYS_sendmsg,
    SYS_set_robust_list, SYS_sigaltstack, SYS_statx, SYS_symlinkat, SYS_tgkill, SYS_unlinkat,
    SYS_utimensat, SYS_wait4, SYS_write,
};

use crate::sys::seccomp::{Must, Restricted};

/// Of fcntl(2) what cannot have signals sent, locks or buffers made.
pub(super) const FCNTL: Restricted<'static> = (
    SYS_fcntl,
    &[(
        1,
        Must::Be(&[
            libc::F_GETFD.cast_unsigned(),
            libc::F_SETFD.cast_unsigned(),
            libc::F_GETFL.cast_unsigned(),
            libc::F_DUPFD_CLOEXEC.cast_unsigned(),
        ]),
    )],
);

/// Reading bytes, making files below a directory, speaking on a line that is there; memory; the end.
pub(super) const OF_A_LAYER: &[libc::c_long] = &[
    // In the order of how often they are made.
    SYS_read,
    SYS_write,
    SYS_openat,
    SYS_openat2,
    SYS_close,
    SYS_newfstatat,
    SYS_fstat,
    SYS_statx,
    SYS_fchown,
    SYS_fchmod,
    SYS_utimensat,
    SYS_mkdirat,
    SYS_symlinkat,
    SYS_linkat,
    SYS_unlinkat,
    SYS_mknodat,
    SYS_fchownat,
    SYS_fchmodat,
    SYS_fsetxattr,
    SYS_fstatfs,
    SYS_lseek,
    SYS_ftruncate,
    SYS_getdents64,
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_futex,
    SYS_getrandom,
    SYS_clock_gettime,
    // A panic, an abort, the end.
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_restart_syscall,
    SYS_sigaltstack,
    SYS_getpid,
    SYS_gettid,
    SYS_exit,
    SYS_exit_group,
];

/// Waiting for jobs, and making a process for each that gives up what is here.
pub(super) const OF_THE_UNPACKER: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    SYS_ppoll,
    SYS_dup3,
    SYS_clone,
    SYS_tgkill,
    SYS_getppid,
    SYS_set_robust_list,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_wait4,
    SYS_prctl,
    SYS_prlimit64,
    SYS_seccomp,
];
