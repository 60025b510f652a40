"""Confine this process for good, then run a program. Runs inside the sandbox: sandbox.py starts it, with `-c`.

Three things that any user may do to itself, in this order; none can be undone, and there are no children to escape:

- rlimits: CPU time, address space, size of a file (here: of the output), open files, no core dump. The kernel kills the
  process when the thread that started it ends (PR_SET_PDEATHSIG).
- Landlock (Linux 5.13; https://docs.kernel.org/userspace-api/landlock.html): of all files, only those of the standard
  library and the system's shared libraries can be read, and only /dev/null written.
- seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html): a list of allowed system calls. Not among them:
  sockets, processes, exec, signals to others, ptrace, pipes, shared memory, chmod, unlink, io_uring, and whatever is
  newer.

Standard library only, and no package around it: the file is passed as text, for its directory has a `math.py`.
"""

# ruff: noqa: E402
import sys

sys.path[:] = [entry for entry in sys.path if entry]  # `-c` put the working directory first

import builtins
import collections
import contextlib
import copyreg
import ctypes
import errno
import json
import math
import os
import pickle
import resource
import signal
import struct
import types
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

C_LIBRARY = ctypes.CDLL(None, use_errno=True)
WALL_PER_CPU_SECOND = 4  # limit of wall time, as a multiple of that of CPU time: the machine may be busy
TEST_SOURCE_IS_WRONG = 3  # exit status of the role "test"
NOT_CONFINED = 4  # exit status before the program was read
MODULE = "solution"  # name of the module of a program of which a function is wanted
INTEGER_DIGITS = 50_000  # of an integer that is read or printed, as in LiveCodeBench

MACHINES = ("x86_64", "aarch64")  # the order of the numbers in the tables below
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
# System calls that are allowed, with their number on each machine (asm/unistd_64.h, asm-generic/unistd.h).
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, None),
    "lstat": (6, None), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "getdents64": (217, 61), "open": (2, None),
    "openat": (257, 56), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "futex": (202, 98), "set_robust_list": (273, 99),
    "rseq": (334, 293), "set_tid_address": (218, 96), "gettid": (186, 178), "getpid": (39, 172),
    "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "uname": (63, 160),
    "sysinfo": (99, 179), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "setitimer": (38, 103), "getitimer": (36, 102), "alarm": (37, None), "pause": (34, None),
}  # fmt: skip


class Restricted(NamedTuple):
    """A system call that is allowed with certain values of one argument.

    Attributes:
        numbers: its number on each machine.
        argument: the place of the argument, from 0.
        values: the allowed values, of 32 bits.
    """

    numbers: tuple[int, int]
    argument: int
    values: tuple[int, ...]


RESTRICTED = (
    # clone: new threads, with the flags that pthread_create of glibc and of musl gives.
    Restricted(numbers=(56, 220), argument=0, values=(0x3D0F00, 0x7D0F00)),
    # fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. Not owner, signal and flags, with which a pipe could
    # be made to signal another process.
    Restricted(numbers=(72, 25), argument=1, values=(0, 1, 2, 3, 1030)),
    # prlimit64: to read a limit, not to set one.
    Restricted(numbers=(302, 261), argument=2, values=(0,)),
)
CLONE3 = 435  # "not there": pthread_create falls back to clone

# The filter is a program of classic BPF (linux/filter.h) over struct seccomp_data (linux/seccomp.h).
Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if false, constant
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
NUMBER_OFFSET, ARCH_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
KILL_PROCESS, REFUSE, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000  # SECCOMP_RET_...; REFUSE takes an errno

# What LeetCode's and LiveCodeBench's starter code takes for granted (LiveCodeBench's testing_util.py). typing first, so
# that Counter and OrderedDict are those of collections).
PRELUDE = """
from typing import *
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from builtins import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics, itertools, functools, operator
import io, sys, json
sys.setrecursionlimit(50000)
"""


def limit_resources(config: dict[str, Any]) -> None:
    """Set the limits of the kernel, before anything of the program is read.

    Args:
        config: "cpu_seconds", "memory_bytes", "output_bytes" and "parent" (the process id that must still be there).
    """
    for limit, value in (
        (resource.RLIMIT_CPU, math.ceil(config["cpu_seconds"])),
        (resource.RLIMIT_AS, config["memory_bytes"]),
        (resource.RLIMIT_FSIZE, config["output_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    libc("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != config["parent"]:
        raise OSError(errno.ESRCH, "the process that started the sandbox is gone")
    libc("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def confine_files(packages: list[str]) -> None:
    """Leave reading the standard library, shared libraries and `packages`, and nothing else of the file system.

    Args:
        packages: further directories that may be read.

    Raises:
        OSError: if the kernel has no Landlock, or it is not enabled.
    """
    execute, write_file, read_file, read_dir = 1, 2, 4, 8
    all_rights = (1 << 13) - 1  # those of Landlock's first version; seccomp refuses what later ones add
    attribute = struct.pack("=Q", all_rights)
    ruleset = libc("syscall", 444, attribute, len(attribute), 0)
    library = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    for path in {*library, *system, *packages, "/dev/null"}:
        if not os.path.exists(path):
            continue
        rights = execute | read_file | (read_dir if os.path.isdir(path) else 0) | (write_file * (path == "/dev/null"))
        parent = os.open(path, os.O_PATH)
        libc("syscall", 445, ruleset, 1, struct.pack("=Qi", rights, parent), 0)  # LANDLOCK_RULE_PATH_BENEATH
        os.close(parent)
    libc("syscall", 446, ruleset, 0)
    os.close(ruleset)


def confine_system_calls() -> None:
    """Allow the system calls listed above, and refuse all others with EPERM.

    Raises:
        OSError: if the machine is neither x86_64 nor aarch64, or the kernel refuses the filter.
    """
    if os.uname().machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"machine {os.uname().machine!r}, must be one of {', '.join(MACHINES)}")
    program = system_call_filter(os.uname().machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    libc("prctl", 22, 2, header, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def system_call_filter(machine: str) -> list[Instruction]:
    """Write the filter that decides about each system call.

    Args:
        machine: one of MACHINES.

    Returns:
        The filter's instructions. A process of another architecture is killed; what is not allowed fails with EPERM.
    """
    place = MACHINES.index(machine)
    program = [load(ARCH_OFFSET), *if_other(AUDIT_ARCH[machine], [give(KILL_PROCESS)]), load(NUMBER_OFFSET)]
    for numbers in ALLOWED.values():
        number = numbers[place]
        if number is not None:
            program += if_equal(number, [give(ALLOW)])
    for call in RESTRICTED:
        program += if_equal(call.numbers[place], restricted(call))
    return [*program, *if_equal(CLONE3, [give(REFUSE | errno.ENOSYS)]), give(REFUSE | errno.EPERM)]


def restricted(call: Restricted) -> list[Instruction]:
    """Write the part that decides by an argument: its upper 32 bits must be 0, the lower an allowed value."""
    low = ARGUMENTS_OFFSET + 8 * call.argument  # both machines are little-endian
    program = [load(low + 4), *if_other(0, [give(REFUSE | errno.EPERM)]), load(low)]
    for value in call.values:
        program += if_equal(value, [give(ALLOW)])
    return [*program, give(REFUSE | errno.EPERM)]


def load(offset: int) -> Instruction:
    """Load a word of what is known of the system call."""
    return (LOAD_WORD, 0, 0, offset)


def give(verdict: int) -> Instruction:
    """End with a verdict."""
    return (RETURN, 0, 0, verdict)


def if_equal(value: int, block: list[Instruction]) -> list[Instruction]:
    """Run a block if the loaded word is `value`; skip it otherwise."""
    return [(JUMP_IF_EQUAL, 0, len(block), value), *block]


def if_other(value: int, block: list[Instruction]) -> list[Instruction]:
    """Run a block if the loaded word is not `value`; skip it otherwise."""
    return [(JUMP_IF_EQUAL, len(block), 0, value), *block]


def libc(function: str, *arguments: int | bytes) -> int:
    """Call prctl or syscall of the C library.

    Raises:
        OSError: as the call says in errno.
    """
    values = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    result: int = getattr(C_LIBRARY, function)(*values)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}{arguments[:2]}: {os.strerror(code)}")
    return result


def canonical(source: str) -> str:
    """Write a program such that two programs which differ in form alone become the same text.

    Comments, docstrings and formatting go; the names that the program itself binds (variables, parameters, functions,
    classes; not imports, attributes and keywords) are numbered in the order in which they occur.

    Args:
        source: a program.

    Returns:
        Its canonical text.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: if Python cannot parse it.
    """
    import ast  # 10 ms, of which only the first of a program's tests has need

    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):  # noqa: SIM102
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        bound = (
            node.id if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
            else node.arg if isinstance(node, ast.arg)
            else node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler))
            else None
        )  # fmt: skip
        if bound is not None:
            names.setdefault(bound, f"_{len(names)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = names[node.arg]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)) and node.name:
            node.name = names[node.name]
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            node.names = [names.get(name, name) for name in node.names]
    return ast.unparse(tree)


def allow(seconds: float) -> None:
    """Let the process be killed after `seconds` more of CPU time, or the multiple of it in wall time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_PER_CPU_SECOND * seconds)


def execute(source: str, name: str) -> dict[str, Any]:
    """Execute a program as a fresh module, and return its names."""
    sys.modules[name] = module = types.ModuleType(name)
    builtins.__dict__.update(exit=sys.exit, quit=sys.exit)  # as `site` would, which is not loaded
    exec(compile(source, "<program>", "exec"), module.__dict__)
    return module.__dict__


def load_function(config: dict[str, Any]) -> Callable[..., Any]:
    """Execute a program and find its function: a bare one, or a method of the class Solution as LeetCode wants it.

    The module is not `__main__`, as in LiveCodeBench and EvalPlus: what a main guard protects does not run.
    """
    given: dict[str, Any] = {}
    exec(PRELUDE, given)
    # Among the builtins, not among the program's own names: `permutations` there must be the program's.
    builtins.__dict__.update({name: value for name, value in given.items() if not name.startswith("__")})
    names = execute(config["source"], MODULE)
    return (
        names[config["function"]] if config["function"] in names else getattr(names["Solution"](), config["function"])
    )


def run(config: dict[str, Any]) -> None:
    """Play the role "program": standard input to standard output. Any exit is a good end, as in LiveCodeBench."""
    with contextlib.suppress(SystemExit):
        execute(config["source"], "__main__")


def call(config: dict[str, Any]) -> None:
    """Play the role "function": write one line of JSON for the value of each of "inputs"."""
    function = load_function(config)
    with open(config["answers"], "w", encoding="utf-8") as answers:
        for arguments in config["inputs"]:
            allow(config["call_seconds"])
            print(json.dumps(function(*arguments), default=list), file=answers, flush=True)


def serve(config: dict[str, Any]) -> None:
    """Play the role "serve": call the function as often as the process with the role "test" asks for it."""
    with open(config["answers"], "wb") as answers, open(config["requests"], "rb") as requests:
        function = load_function(config)
        copyreg.pickle(collections.Counter, as_dict)
        while requests.peek(1):
            arguments, keywords = pickle.load(requests)
            pickle.dump(function(*arguments, **keywords), answers)
            answers.flush()


def as_dict(counter: collections.Counter[Any]) -> tuple[Any, ...]:
    """Pickle a Counter as the dict that it is, which is allowed as an answer."""
    return dict, (dict(counter),)


class PlainData(pickle.Unpickler):
    """Read what the program's process answers: types written in C, and no other class.

    A pickle can set attributes of a class, such as `__eq__`; of these types it cannot.
    """

    ALLOWED: ClassVar = {
        "builtins": ("bytearray", "complex", "dict", "float", "frozenset", "int", "list", "set", "str"),
        "collections": ("OrderedDict", "defaultdict", "deque"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a class, if it is one of the allowed."""
        if name not in self.ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"the program returned a {module}.{name}")
        return super().find_class(module, name)


def test(config: dict[str, Any]) -> None:
    """Play the role "test": run check(candidate), which asks the role "serve". Exit status 0 means passed."""
    sys.path += config["packages"]
    with open(config["requests"], "wb") as requests, open(config["answers"], "rb") as answers:

        def candidate(*arguments: Any, **keywords: Any) -> Any:
            pickle.dump((arguments, keywords), requests)
            requests.flush()
            return PlainData(answers).load()

        try:
            names: dict[str, Any] = {"__name__": "check", config["function"]: candidate}
            exec(compile(config["test"], "<test>", "exec"), names)
            if "check" not in names:
                raise NameError("it does not define check(candidate)")
            names["check"](candidate)
        except (SyntaxError, NameError, ImportError) as error:  # never the program's doing: it runs elsewhere
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(TEST_SOURCE_IS_WRONG)


def main() -> None:
    """Read the configuration, confine this process, say so, and play the role."""
    if sys.version_info >= (3, 10, 7):
        sys.set_int_max_str_digits(INTEGER_DIGITS)
    with open(int(sys.argv[1]), "rb") as control:
        config = json.load(control)
    sys.argv[:], sys.orig_argv[:] = ["program.py"], ["python", "program.py"]  # nothing of how it was started
    try:
        limit_resources(config)
        if config["role"] != "label":  # which parses the program and does not run it
            confine_files(config["packages"])
            confine_system_calls()
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(NOT_CONFINED)
    allow(config["call_seconds"])
    with open(config["report"], "w", encoding="utf-8") as report:
        print("confined", file=report, flush=True)
        if config["label"]:
            # Otherwise sandbox.py takes the text as it is.
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                report.write(canonical(config["source"]))
    {"program": run, "function": call, "serve": serve, "test": test, "label": lambda _: None}[config["role"]](config)


if __name__ == "__main__":
    main()
