"""What confines a process on Linux: namespaces, an own root folder, another user, no capabilities, and limits.

Elsewhere only the limits apply. Constants are those of the kernel's headers (sched.h, mount.h, prctl.h, capability.h,
seccomp.h).
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

LINUX = sys.platform == "linux"
NOBODY = 65534
SCRATCH = "/scratch"
MEGABYTES = 64  # of scratch
FILE_MEGABYTES = 16  # of a file, also in memory
FILES = 64  # open at a time

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
READ_ONLY = 1 | 2 | 4  # MOUNT_ATTR_RDONLY, NOSUID, NODEV
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION = 0x20080522

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
# By machine: AUDIT_ARCH, and the numbers of socket, add_key, request_key, keyctl and io_uring_setup. Namespaces separate
# neither AF_VSOCK sockets (to the host of a virtual machine) nor the user's keyring; io_uring can open sockets too.
FORBIDDEN = {"x86_64": (0xC000003E, (41, 248, 249, 250, 425)), "aarch64": (0xC00000B7, (198, 217, 218, 219, 425))}
X32 = 0x40000000  # numbers from here are a second set of x86-64
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of BPF (linux/filter.h)
ALLOW, REFUSE = 0x7FFF0000, 0x50001  # REFUSE is EPERM


def call(name: str, *arguments: int | bytes | str | ctypes.Array | None) -> None:
    """Calls a function of the C library.

    Raises:
      OSError: it fails.
    """
    library = ctypes.CDLL(None, use_errno=True)
    values = [os.fsencode(value) if isinstance(value, str) else value for value in arguments]
    if getattr(library, name)(*(ctypes.c_long(v) if isinstance(v, int) else v for v in values)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def die_with_parent(number: signal.Signals) -> None:
    """Gets the signal when the parent ends."""
    if LINUX:
        call("prctl", PR_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Becomes the parent of descendants whose parents end."""
    if LINUX:
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Forbids other processes of the same user to read or change this one."""
    if LINUX:
        call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def enter_namespaces(folder: str) -> None:
    """Gets namespaces of mounts, processes (for its children), network, IPC and host name, and fills and enters `folder`.

    The folder has Python and the system's libraries, read-only, and SCRATCH; `drop_rights` makes it the root folder.

    Raises:
      OSError: the system does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    call("unshare", flags | (CLONE_NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    call("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
    call("mount", "tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, b"size=1m,mode=755")
    for path in visible_folders():
        mount_read_only(path, folder + path)
    os.mkdir(f"{folder}/dev")
    for device in ("null", "zero", "urandom"):
        Path(f"{folder}/dev/{device}").touch()
        call("mount", f"/dev/{device}", f"{folder}/dev/{device}", None, MS_BIND, None)
    os.mkdir(folder + SCRATCH)
    options = f"size={MEGABYTES}m,nr_inodes=1024,mode=1777".encode()
    call("mount", "tmpfs", folder + SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, options)
    set_read_only(folder, 0)
    os.chdir(folder)


def visible_folders() -> Iterator[str]:
    """Yields the folders of Python and of the system's libraries, none inside another."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, "/", "/usr", "/usr/local"}
    paths = {os.path.join(prefix, name) for prefix in prefixes for name in ("lib", "lib64")}
    kept: list[str] = []
    for path in sorted(path for path in paths if os.path.isdir(path)):
        if not any(path.startswith(f"{other}/") for other in kept):
            kept.append(path)
            yield path


def mount_read_only(source: str, target: str) -> None:
    """Shows a folder at another path, read-only."""
    os.makedirs(target)
    call("mount", source, target, None, MS_BIND | MS_REC, None)
    set_read_only(target, AT_RECURSIVE)


def set_read_only(path: str, flags: int) -> None:
    """Makes a mount, or with AT_RECURSIVE all below, read-only."""
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, path, flags, attributes, ctypes.sizeof(attributes))


def drop_rights(namespaces: bool) -> None:
    """Becomes the user nobody if it is root, enters the new root folder, and gives up all capabilities for good."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if namespaces:
        if is_root:
            call("unshare", CLONE_NEWUSER)
        # A process whose root folder is not the root of the mounts can make no user namespace.
        os.chroot(".")
        os.chdir(SCRATCH)
    if LINUX:
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)())
    if namespaces:
        forbid_calls()


def forbid_calls() -> None:
    """Forbids the system calls of FORBIDDEN, and those of other instruction sets, for good; needs PR_SET_NO_NEW_PRIVS.

    Raises:
      OSError: the system does not allow it.
    """
    if (machine := os.uname().machine) not in FORBIDDEN:
        return
    architecture, numbers = FORBIDDEN[machine]
    count = len(numbers)
    # (instruction, steps to skip if true, if false, operand); the last two are the results.
    instructions = [
        (LOAD, 0, 0, 4),
        (JUMP_EQUAL, 0, count + 3, architecture),
        (LOAD, 0, 0, 0),
        (JUMP_AT_LEAST, count + 1, 0, X32),
        *((JUMP_EQUAL, count - index, 0, number) for index, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *parts) for parts in instructions))
    program = ctypes.create_string_buffer(struct.pack("HP", len(instructions), ctypes.addressof(code)))
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def limit(seconds: float, megabytes: int, file_megabytes: int, children: bool = False) -> None:
    """Limits processor time, memory, files and, unless `children`, forbids processes and threads."""
    limits = [
        (resource.RLIMIT_CPU, int(seconds) + 2),
        (resource.RLIMIT_AS, megabytes * 2**20),
        (resource.RLIMIT_FSIZE, file_megabytes * 2**20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, FILES),
        *(() if children else ((resource.RLIMIT_NPROC, 0),)),
    ]
    for number, value in limits:
        highest = resource.getrlimit(number)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(number, (value, value))
