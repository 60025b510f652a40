"""The sandbox, with programs that mean harm: each ends within its limits, gets nothing and leaves nothing."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from verl_lad.rewards import sandbox
from verl_lad.rewards.sandbox import Limits, SandboxError, call_function, check_function, run_program

LIMITS = Limits(seconds=10, memory_mb=256)  # for programs that end by themselves, on any machine
SHORT = Limits(seconds=0.5, memory_mb=256)  # for programs that do not


def run(source, stdin="", limits=LIMITS):
    return run_program(source, stdin, limits)


def sandboxed_processes():
    """Processes that run confined.py, of whatever parent."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("Runs inside the sandbox" in argument for argument in process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left():
    ours = set(psutil.Process().children(recursive=True))
    yield
    assert not [process for process in sandboxed_processes() if process.ppid() == os.getpid()]
    assert set(psutil.Process().children(recursive=True)) <= ours


def test_a_program_reads_its_input_by_every_usual_way_and_prints():
    for read in ("input()", "__import__('sys').stdin.read()", "open(0).read()", "open('/dev/stdin').read()"):
        outcome = run(f"print(int({read}) + 1); exit()", "41\n")
        assert (outcome.exit_code, outcome.output) == (0, b"42\n"), outcome.errors


def test_threads_deep_recursion_and_the_standard_library_work():
    outcome = run(
        "import sys, threading, decimal, fractions, heapq, re, sqlite3, random, dataclasses, zoneinfo\n"
        "sys.setrecursionlimit(10**6); threading.stack_size(64 * 2**20)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
        "thread = threading.Thread(target=lambda: print(depth(20000))); thread.start(); thread.join()\n"
        "if __name__ == '__main__': print(zoneinfo.ZoneInfo('UTC'))"
    )
    assert outcome.output == b"20000\nUTC\n", outcome.errors


def test_a_fork_bomb_forks_nothing():
    before = len(psutil.pids())
    outcome = run(
        "import os\nwhile True:\n    try: os.fork()\n    except PermissionError: print('x', flush=True); break"
    )
    assert outcome.output == b"x\n"
    assert len(psutil.pids()) < before + 20


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import signal\nfor s in {*range(1, 32)} - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nfor timer in (0, 1, 2): signal.setitimer(timer, 0)\nwhile True: pass",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (999, 999))\nwhile 1: pass",
        "sum(range(10**12))",  # no bytecode between
    ],
)
def test_an_endless_loop_ends(source):
    assert run(source, limits=SHORT).exit_code != 0


def test_sleeping_ends_by_wall_time():
    assert run("import time\ntime.sleep(1000)", limits=Limits(0.25)).exit_code < 0


@pytest.mark.parametrize(
    "source",
    [
        "hog = bytearray(10**9)",
        "hog = []\nwhile True: hog.append(' ' * 10**6)",
        "import mmap\nhog = mmap.mmap(-1, 10**9)",
        "import os\nfd = os.memfd_create('hog')",
    ],
)
def test_memory_is_bounded(source):
    outcome = run(source, limits=LIMITS)
    assert outcome.exit_code == 1
    assert "MemoryError" in outcome.errors or "Error: [Errno" in outcome.errors


def test_printing_for_ever_fills_neither_memory_nor_time():
    outcome = run("while True: print('x' * 1000)")
    assert outcome.exit_code == 1
    assert len(outcome.output) == sandbox.OUTPUT_BYTES


@pytest.mark.parametrize("name", ["made", "../made"])
def test_no_file_is_written(name, tmp_path):
    path = tmp_path / name
    for attempt in (
        f"open({str(path)!r}, 'w').write('x')",
        f"import os; os.mkdir({str(path)!r})",
        f"import os; os.symlink('/', {str(path)!r})",
        f"import tempfile; tempfile.NamedTemporaryFile(dir={str(tmp_path)!r})",
    ):
        assert run(attempt).exit_code == 1
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_cannot_be_read_changed_or_removed(tmp_path):
    path = tmp_path / "ground_truth"
    path.write_text("42")
    for attempt in (
        "print(open(PATH).read())",
        "open(PATH, 'a').write('x')",
        "import os; os.truncate(PATH, 0)",
        "import os; os.unlink(PATH)",
        "import os; os.rename(PATH, PATH + 'x')",
        "import os; os.chmod(PATH, 0o777)",
        "import os; os.utime(PATH)",
        f"print(open('/proc/{os.getpid()}/environ').read())",
        "print(open('/proc/self/mem', 'r+b'))",
    ):
        outcome = run(f"PATH = {str(path)!r}\n{attempt}")
        assert (outcome.exit_code, outcome.output) == (1, b""), attempt
    assert path.read_text() == "42"


def test_no_socket_of_any_kind_opens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for attempt in (
            f"socket.create_connection(('127.0.0.1', {port}))",
            "socket.socket(socket.AF_UNIX)",
            "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
            "socket.socketpair()",
            "__import__('urllib.request').request.urlopen('http://127.0.0.1')",
        ):
            outcome = run(f"import socket\n{attempt}")
            assert outcome.exit_code == 1
            assert "Operation not permitted" in outcome.errors


@pytest.mark.parametrize(
    "attempt",
    [
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.killpg(0, 9)",
        "os.setsid()",
        "os.execv('/bin/sh', ['sh', '-c', 'echo out'])",
        "os.system('echo out') and 1 / 0",
        "os.posix_spawn('/bin/sh', ['sh', '-c', 'echo out'], {})",
        "__import__('multiprocessing').Process(target=print).start()",
        "os.sched_setaffinity(0, {0})",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "os.pipe()",
    ],
)
def test_nothing_outside_is_reached(attempt):
    outcome = run(f"import os, fcntl, resource\n{attempt}")
    assert outcome.exit_code == 1
    assert outcome.output == b""


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(101, id="ptrace"),
        pytest.param(29, id="shmget"),
        pytest.param(425, id="io_uring_setup"),
        pytest.param(165, id="mount"),
        pytest.param(2**30 + 41, id="socket of x32"),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_a_raw_system_call_is_refused(number):
    outcome = run(
        f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nprint(c.syscall({number}, 0, 0, 0), ctypes.get_errno())"
    )
    assert outcome.output == b"-1 1\n"


def test_a_new_process_by_the_clone_system_call_is_refused():
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    outcome = run(f"import ctypes\nprint(ctypes.CDLL(None).syscall({number}, 17, 0, 0, 0, 0))")  # SIGCHLD: as fork does
    assert outcome.output == b"-1\n"


def test_nothing_of_the_environment_leaks(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert b"secret" not in run("import os\nprint(os.environ)").output


def test_the_process_ends_when_the_trainer_is_killed():
    script = (
        "from verl_lad.rewards.sandbox import Limits, check_confinement, run_program\n"
        "check_confinement(); print('probed', flush=True)\n"
        "run_program('import time; time.sleep(600)', '', Limits(600.0))"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert trainer.stdout is not None
    trainer.stdout.readline()
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(trainer.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    trainer.kill()
    trainer.wait()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive


def test_a_machine_on_which_something_gets_through_runs_nothing(monkeypatch):
    sandbox._probe.cache_clear()
    unconfined = sandbox.CONFINED.replace("confine_system_calls()\n    except", "pass\n    except")
    unconfined = unconfined.replace("            confine_system_calls()\n", "")
    monkeypatch.setattr(sandbox, "CONFINED", unconfined)
    with pytest.raises(SandboxError, match=r"socket.*sandbox_fusion_url"):
        run("print(1)")
    sandbox._probe.cache_clear()


def test_a_machine_without_landlock_runs_nothing_and_says_so(monkeypatch):
    sandbox._probe.cache_clear()
    monkeypatch.setattr(sandbox, "CONFINED", sandbox.CONFINED.replace('"syscall", 444', '"syscall", 9999'))
    with pytest.raises(SandboxError, match=r"Function not implemented.*sandbox_fusion_url"):
        run("print(1)")
    sandbox._probe.cache_clear()


def test_functions_answer_in_json_and_stop_at_the_first_failure():
    outcome = call_function("def f(x): return {1: (x, 1 / x)}", "f", [[1], [2], [0], [3]], LIMITS)
    assert outcome.output == b'{"1": [1, 1.0]}\n{"1": [2, 0.5]}\n'
    assert outcome.exit_code == 1
    source = "class Solution:\n    def f(self, xs: List[int]) -> int:\n        return Counter(xs).most_common(1)[0][0]"
    assert call_function(source, "f", [[[1, 2, 2]]], LIMITS).output == b"2\n"


def test_a_function_of_the_prelude_is_not_taken_for_the_programs():
    assert call_function("x = 1", "gcd", [[4, 6]], LIMITS).exit_code == 1


CHECK = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(x=[1, (2,)]) == [1, (2,), 1]\n"


def test_answers_of_the_usual_types_arrive():
    for value in ("{1, 2}", "(1, [None, 'a'])", "{'a': (1j, float('inf'))}", "OrderedDict(a=1)", "Counter('aab')"):
        check = f"from collections import *\ndef check(c):\n    assert c() == {value}"
        assert check_function(f"def f(): return {value}", "f", check, LIMITS)[0], value


def test_a_test_source_checks_a_function_with_its_types():
    right = "def f(x):\n    return x + 1 if isinstance(x, int) else [*x, 1]"
    assert check_function(right, "f", CHECK, LIMITS)[0]
    assert not check_function(right.replace("[*x, 1]", "(*x, 1)"), "f", CHECK, LIMITS)[0]
    numpy = "import numpy as np\ndef check(candidate):\n    assert np.allclose(candidate(2.0), 3.0)\ncheck(f)"
    assert check_function(right.replace("int)", "float)"), "f", numpy, Limits())[0]


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def f(x):\n    import os; os._exit(0)",
        "class Equal:\n    def __eq__(self, other): return True\ndef f(x): return Equal()",
        "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 3",
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['check'] = lambda c: None; frame = frame.f_back\n    return 3",
        "class Code:\n    def __reduce__(self): return exec, ('import os; os._exit(0)',)\ndef f(x): return Code()",
        "import os\nclass Code:\n    def __reduce__(self): return os._exit, (0,)\ndef f(x): return Code()",
        # A pickle of an object that is equal to everything: it sets Counter.__eq__ = str.
        "import os\npickled = "
        "b'\\x80\\2ccollections\\nCounter\\nN}X\\6\\0\\0\\0__eq__cbuiltins\\nstr\\ns\\x86b)\\x81.'\n"
        "for fd in range(3, 64):\n    try: os.write(fd, pickled * 99)\n    except OSError: pass\ndef f(x): return 3",
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'passed\\n' * 99)\n    except OSError: pass\n"
        "def f(x): return 3",
    ],
)
def test_a_wrong_program_cannot_forge_a_passed_check(source):
    assert not check_function(source, "f", CHECK, LIMITS)[0]


@pytest.mark.parametrize(
    "test", ["def check(c:", "x = 1", "import not_there\ndef check(c): pass", "def check(c): c_(1)"]
)
def test_a_wrong_test_source_is_an_error_and_not_a_wrong_program(test):
    with pytest.raises(ValueError, match="test source of 'f'"):
        check_function("def f(x): return x", "f", test, LIMITS)


def test_labels_ignore_form_and_names_and_nothing_else():
    program = '"""Doc."""\nimport math\ndef f(n):  # comment\n    """Doc."""\n    m = n\n    return math.sqrt(m)\n'
    renamed = "import math\n\ndef g( k ):\n    value=k\n    return (math.sqrt(value))"
    other = renamed.replace("sqrt", "exp")
    label, same, different = (sandbox.label(source, LIMITS) for source in (program, renamed, other))
    assert label == same != different
    assert sandbox.label("((", LIMITS) != sandbox.label("(((", LIMITS) == sandbox.label(" ((( \n", LIMITS)
    assert sandbox.label(f"x = {'-' * 100_000}1", LIMITS)
    assert run_program(program, "", LIMITS, label=True).label == label


def test_limits_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"seconds must be above 0.*got 0"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="memory_mb must be at least 64, got 1"):
        Limits(memory_mb=1)
