//! The system calls of each kind of thread.
//!
//! What allocator, panics, locks and the end of a thread need is common; the
//! rest is what the thread's own code does. A call that opens, makes or
//! changes something is on a list only if its thread lives by it. Nobody may
//! execute, trace, mount, load or change the clock.

/// KVM_RUN.
const KVM_RUN: u64 = 0xae80;
/// KVM_IRQ_LINE.
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
/// KVM_KVMCLOCK_CTRL.
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
/// KVM_GET_REGS, KVM_GET_SREGS: to say where a processor failed.
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_GET_SREGS: u64 = 0x8138_ae83;

/// All threads.
pub const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // A debug build asks whether a descriptor is open before it closes it.
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_poll,
    // For PR_GET_NAME in the handler below, and for names of threads.
    libc::SYS_prctl,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// A processor's thread: it also sets devices up and resets them, which
/// touches the event loop and the ends of connections.
pub const VCPU: &[i64] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// Requests of ioctl in a processor's thread.
pub const VCPU_IOCTLS: &[u64] = &[KVM_RUN, KVM_IRQ_LINE, KVM_GET_REGS, KVM_GET_SREGS];

/// The event loop of the small devices. socketpair makes connections that the
/// guest asks for.
pub const DEVICES: &[i64] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// Requests of ioctl in the event loop.
pub const DEVICES_IOCTLS: &[u64] = &[KVM_IRQ_LINE, libc::FIONBIO];

/// A virtio-fs worker.
pub const FS: &[i64] = &[
    // Names. What opens a file takes a descriptor and one name below it.
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    // What renameat2(2) without flags becomes in the C library.
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    // Attributes.
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fstatfs,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    libc::SYS_setxattr,
    libc::SYS_statx,
    libc::SYS_utimensat,
    // Content.
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_syncfs,
    // Whose a file is that is made; set-user-id bits that are to be lost.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
];

/// Requests of ioctl in a virtio-fs worker.
pub const FS_IOCTLS: &[u64] = &[KVM_IRQ_LINE];

/// The owner's thread and those it makes: sockets, terminals, its state files,
/// and the machine's controls.
pub const MAIN: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_capget,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_fchmod,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getppid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_getuid,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_pwrite64,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_signalfd4,
    libc::SYS_socketpair,
    libc::SYS_splice,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_umask,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Requests of ioctl in the owner's thread: the machine's, and a terminal's.
pub const MAIN_IOCTLS: &[u64] = &[
    KVM_IRQ_LINE,
    KVM_KVMCLOCK_CTRL,
    libc::FIONBIO,
    libc::FIONREAD,
    libc::TCGETS,
    libc::TCSETS,
    libc::TIOCGWINSZ,
    libc::TIOCSWINSZ,
    libc::TIOCGPTN,
    libc::TIOCGPTPEER,
    libc::TIOCSPTLCK,
];
