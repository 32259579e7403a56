"""What holds a program in: namespaces, Landlock, limits and a seccomp filter, through ctypes alone.

This file and its neighbours run in a bare interpreter (`python -I -S`) that sees no installed package.

The filter lists the system calls of one process with one thread that computes; all others fail with EPERM. Files open
for reading only, no socket has an address, signals reach nobody else, and there is no fork, exec, thread or mount.
Landlock leaves only Python's own library and shared libraries readable. Namespaces are a second wall where the kernel
lends them.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
SYS_MOUNT_SETATTR, SYS_LANDLOCK = 442, 444  # the same number on every architecture
NAMESPACES = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # user mnt pid net ipc uts
USER_NAMESPACE = 0x10000000

# name: (x86_64, aarch64); None where the architecture never had it
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "poll": (7, None), "ppoll": (271, 73), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
    "pipe": (22, None), "pipe2": (293, 59), "select": (23, None), "pselect6": (270, 72), "sched_yield": (24, 124),
    "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None), "setitimer": (38, 103), "getpid": (39, 172),
    "exit": (60, 93), "uname": (63, 160), "getcwd": (79, 17), "readlink": (89, None), "readlinkat": (267, 78),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "getppid": (110, 173), "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "getdents64": (217, 61), "set_tid_address": (218, 96),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "epoll_wait": (232, None), "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "epoll_create1": (291, 20),
    "eventfd2": (290, 19), "newfstatat": (262, 79), "faccessat": (269, 48), "faccessat2": (439, 439),
    "set_robust_list": (273, 99), "getrandom": (318, 278), "statx": (332, 291), "rseq": (334, 293),
    "membarrier": (324, 283), "recvfrom": (45, 207), "shutdown": (48, 210),
}  # fmt: skip

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # the last is O_TMPFILE's own bit
FCNTL = (
    0,
    1,
    2,
    3,
    4,
    1030,
)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; F_SETOWN could send signals

FIONBIO = 0x5421  # makes asyncio's socket pair non-blocking

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH


def confine(seconds: float, memory_mb: int) -> None:
    """Closes the walls around this process for good. Raises OSError where the kernel lacks one."""
    die_with_parent()
    no_new_privileges()
    limit(seconds, memory_mb)
    landlock(readable())
    seccomp()


def die_with_parent() -> None:
    """Has the kernel end this process with its parent, where it can."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def no_new_privileges() -> None:
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def limit(seconds: float, memory_mb: int) -> None:
    """Limits of this process: CPU time, address space, no files to write, no processes, no core dump."""
    for what, most in (
        (resource.RLIMIT_CPU, int(seconds) + 2),  # the launcher's clock comes first
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):
            if sys.platform == "linux":  # elsewhere there are no walls, and fewer limits
                raise


def readable() -> list[str]:
    """Python's own library, the shared libraries it loads, and time zones: all that a program may read."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/null"]
    paths.append(os.path.join(sys.base_prefix, "lib"))
    return sorted({os.path.realpath(path) for path in paths if path and os.path.exists(path)})


def landlock(paths: list[str]) -> None:
    """Leaves only `paths` readable and nothing writable (Landlock, Linux 5.13). Raises OSError where it is missing."""
    abi = _call(SYS_LANDLOCK, None, ctypes.c_size_t(0), 1)
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1  # every right that this version knows
    fields = [files, 3, 3][
        : 1 if abi < 4 else 2 if abi < 6 else 3
    ]  # TCP bind and connect; scopes of sockets and signals
    rules = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _call(SYS_LANDLOCK, rules, ctypes.c_size_t(len(rules)), 0)
    for path in paths:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = 0b1100 if os.path.isdir(path) else 0b100  # read files, list folders
        _call(SYS_LANDLOCK + 1, ruleset, 1, struct.pack("=Qi", rights, opened), 0)
        os.close(opened)
    _call(SYS_LANDLOCK + 2, ruleset, 0)
    os.close(ruleset)


def seccomp() -> None:
    """Installs the filter. Raises OSError where the kernel or the architecture has none."""
    machine = platform.machine()
    if machine not in ARCHITECTURES or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"no system call filter is written for {machine}")
    code = b"".join(struct.pack("=HBBI", *step) for step in program(machine, os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    _prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(header))


def program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """The filter as classic BPF, (code, jump if true, jump if false, constant); `pid` may send signals to itself."""
    column, audit = ARCHITECTURES[machine]
    steps = [*_load(4), _equal(audit, 1), _give(KILL), *_load(0), (0x35, 0, 1, 0x40000000), _give(KILL)]  # no x32

    def when(numbers: tuple[int | None, int | None], *body: tuple[int, int, int, int]) -> None:
        number = numbers[column]
        if number is not None:
            steps.extend([(0x15, 0, len(body), number), *body])

    for numbers in ALLOWED.values():
        when(numbers, _give(ALLOW))
    for numbers, argument in (((2, None), 1), ((257, 56), 2)):  # open, openat
        when(numbers, *_argument(argument), (0x45, 0, 1, WRITING), _give(DENY), _give(ALLOW))
    for numbers in ((62, 129), (200, 130), (234, 131)):  # kill, tkill, tgkill
        when(numbers, *_argument(0), _equal(pid, 1), _give(DENY), _give(ALLOW))
    when((302, 261), *_argument(0), _equal(0, 1), _give(DENY), _give(ALLOW))  # prlimit64 of itself
    when((53, 199), *_argument(0), _equal(1, 1), _give(DENY), _give(ALLOW))  # socketpair(AF_UNIX): asyncio's own
    nowhere = [*_argument(4), _equal(0, 1), _give(DENY), *_argument(4, high=True), _equal(0, 1), _give(DENY)]
    when((44, 206), *nowhere, _give(ALLOW))  # sendto without an address
    commands = [step for command in FCNTL for step in ((0x15, 0, 1, command), _give(ALLOW))]
    when((72, 25), *_argument(1), *commands, _give(DENY))
    terminal = _give(ERRNO | errno.ENOTTY)
    when((16, 29), *_argument(1), (0x15, 0, 1, FIONBIO), _give(ALLOW), terminal)  # ioctl: no descriptor is a terminal
    return [*steps, _give(DENY)]


KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000  # linux/seccomp.h
DENY = ERRNO | errno.EPERM


def _load(offset: int) -> list[tuple[int, int, int, int]]:
    return [(0x20, 0, 0, offset)]  # BPF_LD | BPF_W | BPF_ABS on struct seccomp_data


def _argument(index: int, high: bool = False) -> list[tuple[int, int, int, int]]:
    return _load(16 + 8 * index + 4 * high)


def _equal(constant: int, skip: int) -> tuple[int, int, int, int]:
    return (0x15, skip, 0, constant)


def _give(verdict: int) -> tuple[int, int, int, int]:
    return (0x06, 0, 0, verdict)


def isolate() -> bool:
    """New namespaces for this process and its children, all mounts read-only; whether the kernel lent them.

    The caller must fork: the first child becomes process 1, and its end ends all others.
    """
    user, group = os.getuid(), os.getgid()
    if LIBC.unshare(NAMESPACES) != 0 and (user != 0 or LIBC.unshare(NAMESPACES & ~USER_NAMESPACE) != 0):
        return False
    for path, line in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
        try:
            with open(f"/proc/self/{path}", "w") as file:
                file.write(line)
        except OSError:
            pass  # without a map the process is nobody, which is as good
    private, read_only = 0x44000, struct.pack("=4Q", 0x3, 0, 0, 0)  # MS_REC | MS_PRIVATE; MOUNT_ATTR_RDONLY | NOSUID
    if LIBC.mount(None, b"/", None, ctypes.c_ulong(private), None) != 0:
        return True  # the other namespaces hold; Landlock keeps files from being written
    LIBC.syscall(SYS_MOUNT_SETATTR, -1, b"/", 0x8000, read_only, ctypes.c_size_t(len(read_only)))  # AT_RECURSIVE
    return True


def _call(number: int, *arguments: object) -> int:
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, value: int, pointer: object = None) -> None:
    if LIBC.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")
