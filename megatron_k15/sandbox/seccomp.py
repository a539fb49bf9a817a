"""The system calls a jailed program may make, as a BPF program for the kernel, compiled by libseccomp.

A list of what is allowed, as Docker's profile is: everything else answers "no such call" (ENOSYS), also what future
kernels add. Left out on purpose: namespaces, mounts, modules, keys, bpf, perf, io_uring, userfaultfd, ptrace and
process_vm_*, other processes' descriptors, System V and POSIX message queues and shared memory (they would outlive a
run), clocks, swap, reboot, quotas, and sockets of every family but AF_UNIX (AF_VSOCK knows no namespaces).
"""

import ctypes
import ctypes.util
import errno
import os
import resource
import socket

from megatron_k15.sandbox.errors import RequirementError

ALLOWED = """
    _llseek _newselect accept accept4 access alarm arch_prctl arm_fadvise64_64 bind brk cachestat capget chdir chmod
    chown chown32 clock_getres clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait
    epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
    futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch ioctl ioprio_get kill lchown lchown32 lgetxattr link linkat listen listxattr llistxattr lseek lstat
    lstat64 madvise membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
    pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
    recvmmsg recvmmsg_time64 recvmsg rename renameat renameat2 restart_syscall rmdir riscv_flush_icache riscv_hwprobe
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield select send
    sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setsid setsockopt setuid
    shutdown sigaltstack signalfd signalfd4 socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat
    sync_file_range sysinfo tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
    times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork
    wait4 waitid waitpid write writev
""".split()  # noqa: SIM905

NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET; only clone3 can ask for NEWTIME."""

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOT_EQUAL, _EQUAL, _MASKED_EQUAL = 1, 4, 7
_OPTIMIZE = 8
_BINARY_TREE = 2
_UNKNOWN = -1


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def seccomp_program() -> bytes:
    """The filter for this machine's architecture; calls of other architectures (32-bit ones) kill their process.

    Raises:
        RequirementError: libseccomp is not installed.
    """
    library = _library()
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    assert context
    try:
        # A binary tree: 8 comparisons per call instead of 240. An older libseccomp makes the longer list.
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for name in ALLOWED:
            _allow(library, context, name)
        _allow(library, context, "socket", _Comparison(0, _EQUAL, socket.AF_UNIX, 0))
        # The limit on core dumps stays: see enter.cpp. Reading it is free.
        _allow(library, context, "setrlimit", _Comparison(0, _NOT_EQUAL, resource.RLIMIT_CORE, 0))
        _allow(library, context, "prlimit64", _Comparison(1, _NOT_EQUAL, resource.RLIMIT_CORE, 0))
        _allow(library, context, "prlimit64", _Comparison(2, _EQUAL, 0, 0))
        # clone3 hides its flags from filters: glibc takes clone where it does not exist.
        _allow(library, context, "clone", _Comparison(0, _MASKED_EQUAL, NEW_NAMESPACES, 0))
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise RequirementError(f"the sandbox needs libseccomp2 (apt-get install libseccomp2); {error}") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)
    ]  # fmt: skip
    return library


def _allow(library: ctypes.CDLL, context: int, name: str, *comparisons: _Comparison) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN:  # younger than this libseccomp: stays forbidden
        return
    array = (_Comparison * len(comparisons))(*comparisons)
    result = library.seccomp_rule_add_array(context, _ALLOW, number, len(comparisons), array)
    # A call that this architecture does not have is refused here: there is nothing to allow.
    assert result in (0, -errno.EOPNOTSUPP, -errno.EDOM), (name, result)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        result = library.seccomp_export_bpf(context, fd)
        assert result == 0, os.strerror(-result)
        os.lseek(fd, 0, os.SEEK_SET)
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)
