"""Run programs that a model wrote: each in a process of its own, confined by the kernel, with limits; or not at all.

Before anything else, in each process that asks for it, a probe tries what must fail (a socket, a fork, writing a file,
reading /etc/passwd, a signal to the trainer, an exec). Where one of them succeeds, or the kernel lacks a part of it
(Linux 5.13 with Landlock, seccomp, x86_64 or aarch64), `SandboxError` says so and nothing is run. It needs no privilege
and no container; root is confined as well. confined.py says how.

What a program gets: the Python that runs the trainer, with the standard library alone; its test's input; an empty
environment; threads; CPU time, wall time and memory up to the limits; 16 MB of output. No files, not even temporary
ones; no network; no other process; no event loop of asyncio (it needs a socket pair). It never sees an expected output:
outputs and values are compared by the caller, and the assertions of a test source run in a second confined process,
which has the program's function only through a pipe, as data. So nothing that a program prints, raises, overrides or
finds in memory can pass for a right answer.

What this is not: a virtual machine. A hole in the kernel's system calls that remain, side channels (timing, caches),
and the number of threads within the memory limit are not covered. Whether a path exists can be found out, not what is
in the file. On aarch64 it is written from the kernel's table, and has not been run by us.
"""

import functools
import hashlib
import json
import os
import select
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CONFINED = Path(__file__).with_name("confined.py").read_text(encoding="utf-8")
OUTPUT_BYTES = 16 * 2**20  # of standard output, standard error and answers, each
WALL_PER_CPU_SECOND = 4  # as in confined.py, which enforces it; the caller adds SLACK_SECONDS, should it have failed to
SLACK_SECONDS = 5.0
GRACE_SECONDS = 1.0
TEST_SOURCE_IS_WRONG = 3  # as in confined.py
INTEGER_DIGITS = 50_000  # of an integer that is read or printed, as in confined.py and LiveCodeBench
MODULE = "solution"  # name of a program of which a function is wanted, as in confined.py
ALTERNATIVE = (
    "Use verl's Sandbox Fusion instead: start its service and pass "
    "+reward.custom_reward_function.reward_kwargs.sandbox_fusion_url=http://HOST:PORT/run_code"
)
# Prints the names of what it could do and should not.
PROBE = """
import ctypes, os, socket, subprocess, sys
def forked():
    if os.fork() == 0: os._exit(0)
attempts = {
    "socket": lambda: socket.socket(),
    "fork": forked,
    "exec": lambda: os.execv(sys.executable, [sys.executable, "-c", "print('exec')"]),
    "spawn": lambda: subprocess.run([sys.executable, "-c", ""]),
    "write": lambda: open(PATH, "w"),
    "mkdir": lambda: os.mkdir(PATH),
    "read": lambda: open("/etc/passwd"),
    "list": lambda: os.listdir("/"),
    "kill": lambda: os.kill(os.getppid(), 0),
    "chmod": lambda: os.chmod("/", 0o755),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name)
    except OSError:
        pass
print("done")
"""


class SandboxError(RuntimeError):
    """Model-written code cannot be confined here, and is not run."""


@dataclass(frozen=True)
class Limits:
    """Limits of what one program may use.

    Attributes:
        seconds: CPU time a test; wall time is limited to four times as much.
        memory_mb: address space, in MB of 2**20 bytes.
    """

    seconds: float = 10.0
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds must be above 0 and at most 3600, got {self.seconds!r}")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb must be at least 64, got {self.memory_mb!r}")


@dataclass(frozen=True)
class Outcome:
    """The way in which one confined process ended.

    Attributes:
        exit_code: 0 if it ended well; minus the signal's number if it was killed (by a limit: 9, 14, 24 or 27).
        output: its standard output or, of `call_function`, its answers.
        errors: the end of its standard error.
        label: digest of the program's canonical form (confined.py), "" where not asked for.
    """

    exit_code: int
    output: bytes
    errors: str
    label: str


def run_program(source: str, stdin: str, limits: Limits, label: bool = False) -> Outcome:
    """Run a program once, from standard input to standard output.

    Args:
        source: the program.
        stdin: its standard input.
        limits: what it may use.
        label: whether to compute its label.

    Returns:
        How it ended.

    Raises:
        SandboxError: if it cannot be confined.
    """
    check_confinement()
    return _run({"role": "program", "source": source, "label": label}, limits, stdin=stdin)


def call_function(source: str, function: str, inputs: list[list[Any]], limits: Limits, label: bool = False) -> Outcome:
    """Call a function of a program with each of some arguments, in one process.

    Args:
        source: the program; it defines the function, or a class Solution with it as a method.
        function: its name.
        inputs: the arguments of each call, as JSON knows them.
        limits: what each call may use.
        label: whether to compute the program's label.

    Returns:
        How it ended; `output` has a line of JSON a call, up to the first that failed.

    Raises:
        SandboxError: if it cannot be confined.
    """
    check_confinement()
    config = {"role": "function", "source": source, "function": function, "inputs": inputs, "label": label}
    with _memory_file() as answers:
        outcome = _run(config, limits, tests=len(inputs), answers=answers.fileno())
        return Outcome(outcome.exit_code, _content(answers), outcome.errors, outcome.label)


def check_function(source: str, function: str, test: str, limits: Limits) -> tuple[bool, Outcome]:
    """Let a test source check a function of a program: two processes, and only data passes between them.

    Args:
        source: the program; it defines the function, or a class Solution with it as a method.
        function: its name.
        test: defines check(candidate), which raises if the function is wrong. It may import what is installed.
        limits: what each of the two may use for the whole check.

    Returns:
        Whether the check passed, and how the program ended, with its label.

    Raises:
        SandboxError: if they cannot be confined.
        ValueError: if the test source itself is wrong: no Python, no `check`, a name or module that is not there.
    """
    check_confinement()
    serve = {"role": "serve", "source": source, "function": function, "label": True}
    packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    check = {"role": "test", "test": test, "function": function, "label": False, "packages": packages}
    with ExitStack() as stack:
        pipes = zip((*os.pipe(), *os.pipe()), ("rb", "wb", "rb", "wb"), strict=True)
        ends = [stack.enter_context(open(descriptor, mode, buffering=0)) for descriptor, mode in pipes]
        requests, asked, answered, answers = (end.fileno() for end in ends)
        tester = stack.enter_context(_start(check, limits, requests=asked, answers=answered))
        program = stack.enter_context(_start(serve, limits, requests=requests, answers=answers))
        for end in ends:
            end.close()
        verdict = tester.end()
        outcome = program.end(GRACE_SECONDS)  # the end of the requests is the end of its work
    if verdict.exit_code == TEST_SOURCE_IS_WRONG:
        raise ValueError(f"test source of {function!r}: {verdict.errors.strip()}")
    return verdict.exit_code == 0, outcome


def label(source: str, limits: Limits) -> str:
    """Compute a program's label without running it.

    Args:
        source: the program.
        limits: what the computation may use.

    Returns:
        Digest of its canonical form; of its stripped text if Python cannot parse it.

    Raises:
        SandboxError: if its process cannot start. (It has one because Python's parser can be made to crash.)
    """
    return _run({"role": "label", "source": source, "label": True}, limits).label


def check_confinement() -> None:
    """Try once in this process whether the confinement holds; cheap ever after.

    Raises:
        SandboxError: if it does not, naming what got through and what to use instead.
    """
    with _probing:
        _probe()


_probing = threading.Lock()


@functools.cache
def _probe() -> None:
    path = os.path.join(tempfile.gettempdir(), f"verl-lad-probe-{os.getpid()}")
    outcome = _run({"role": "program", "source": f"PATH = {path!r}\n{PROBE}", "label": False}, Limits())
    *escaped, last = outcome.output.decode().split() or [""]
    if escaped or last != "done" or os.path.exists(path):
        raise SandboxError(
            f"the sandbox does not hold here, so no model-written code is run: got through: {escaped or 'unknown'}; "
            f"exit status {outcome.exit_code}, {outcome.errors[-300:]!r}. {ALTERNATIVE}"
        )


@dataclass
class _Process:
    """A process that was started, and the files in memory that it writes to."""

    process: subprocess.Popen[bytes]
    descriptor: int
    output: BinaryIO
    errors: BinaryIO
    report: BinaryIO
    source: str
    labelled: bool
    wall_seconds: float

    def end(self, seconds: float | None = None) -> Outcome:
        """Wait until it ended, at most `seconds` or as long as it may run, and collect what it left."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        if not poll.poll(1000 * (self.wall_seconds if seconds is None else seconds)):
            self.process.kill()
        exit_code = self.process.wait()
        errors = _content(self.errors)[-2000:].decode(errors="replace")
        report = _content(self.report).decode(errors="replace")
        if not report and exit_code > 0:
            raise SandboxError(f"model-written code cannot be confined here: {errors.strip()}. {ALTERNATIVE}")
        canonical = report.partition("\n")[2] or self.source.strip()
        label = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:16] if self.labelled else ""
        return Outcome(exit_code, _content(self.output), errors, label)


def _run(config: dict[str, Any], limits: Limits, stdin: str = "", tests: int = 1, **descriptors: int) -> Outcome:
    with _start(config, limits, stdin, tests, **descriptors) as process:
        return process.end()


@contextmanager
def _start(
    config: dict[str, Any], limits: Limits, stdin: str = "", tests: int = 1, **descriptors: int
) -> Iterator[_Process]:
    """Start a confined process, and see to it that nothing is left of it.

    Args:
        config: its role and what the role needs.
        limits: what it may use for each test.
        stdin: its standard input.
        tests: number of tests it runs.
        descriptors: open files that it gets beside the standard ones, by their key in its configuration.

    Yields:
        The process.
    """
    seconds = limits.seconds * max(1, tests)
    with _memory_file() as control, _memory_file() as stdin_file, ExitStack() as stack:
        output, errors, report = (stack.enter_context(_memory_file()) for _ in range(3))
        config = {
            "packages": [],
            **config,
            **descriptors,
            "report": report.fileno(),
            "call_seconds": limits.seconds,
            "cpu_seconds": seconds,
            "memory_bytes": limits.memory_mb * 2**20,
            "output_bytes": OUTPUT_BYTES,
            "parent": os.getpid(),
        }
        for file, content in ((control, json.dumps(config)), (stdin_file, stdin)):
            file.write(content.encode(errors="replace"))
            file.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-c", CONFINED, str(control.fileno())],
            stdin=stdin_file,
            stdout=output,
            stderr=errors,
            pass_fds=(control.fileno(), report.fileno(), *descriptors.values()),
            cwd="/",
            # Nothing of ours. With the seed, a program that depends on the order of a set gets one reward, always.
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        descriptor = os.pidfd_open(process.pid)
        stack.callback(os.close, descriptor)
        wall_seconds = WALL_PER_CPU_SECOND * seconds + SLACK_SECONDS
        yield _Process(
            process, descriptor, output, errors, report, config.get("source", ""), config["label"], wall_seconds
        )


def _memory_file() -> BinaryIO:
    return open(os.memfd_create("verl-lad"), "w+b", buffering=0)


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()
