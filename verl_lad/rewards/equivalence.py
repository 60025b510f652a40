"""Compare answers in processes of their own, which may be killed.

math-verify (https://github.com/huggingface/Math-Verify) interrupts itself by signals, which work in a main thread only,
and verl scores in other threads. sympy can take for ever, or all memory, on a hostile answer. So both run in worker
processes, which start when first needed (about a second) and have neither torch nor Ray. The kernel ends a worker that
exceeds its limits, whether or not the trainer still lives. A worker without a trainer ends when its input does.
"""

import importlib.util
import json
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
import threading

WORKERS = max(1, (os.cpu_count() or 1) // 8)  # verl starts 8 reward workers (reward.num_workers), each with its own
MEMORY_BYTES = 2 * 2**30
WALL_PER_CPU_SECOND = 4  # the machine may be busy
INSTALL = "pip install math-verify==0.9.0 'latex2sympy2_extended[antlr4_9_3]'  (Hydra needs antlr4-python3-runtime 4.9)"

logger = logging.getLogger(__name__)

if importlib.util.find_spec("math_verify") is None:
    raise ImportError(f"the package math-verify is not installed: {INSTALL}")


class MathVerifyWorkers:
    """Worker processes that compare answers, for use from any number of threads.

    Args:
        workers: how many processes may run at once.

    Attributes:
        killed: how many comparisons exceeded a limit, and so counted as "not the same".
    """

    def __init__(self, workers: int = WORKERS):
        self.killed = 0
        self._lock = threading.Lock()
        self._free: queue.LifoQueue[subprocess.Popen[str] | None] = queue.LifoQueue()
        for _ in range(workers):
            self._free.put(None)  # not started

    def same(self, answer: str, truth: str, seconds: float) -> bool:
        """Compare an answer with the true one, as `verl_lad.rewards.answers.same` does with math-verify.

        Args:
            answer: LaTeX or plain text of a model.
            truth: LaTeX or plain text of the data set.
            seconds: CPU time that it may take; wall time is limited to four times as much.

        Returns:
            True if they mean the same. False too if a limit was exceeded, which is counted and logged.

        Raises:
            RuntimeError: if the workers cannot start.
        """
        worker = self._free.get()
        try:
            if worker is None or worker.poll() is not None:
                worker = self._start()
            reply = self._ask(worker, json.dumps([answer, truth, seconds]))
        finally:
            self._free.put(worker)
        if reply:
            return bool(json.loads(reply))
        worker.wait()
        with self._lock:
            self.killed += 1
            logger.warning(
                "math-verify exceeded %s CPU seconds or %s GB: the answer %.200r to %.200r is wrong (number %s here)",
                seconds,
                MEMORY_BYTES // 2**30,
                answer,
                truth,
                self.killed,
            )
        return False

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-c", "from verl_lad.rewards.equivalence import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            start_new_session=True,
        )
        if MathVerifyWorkers._ask(worker, "") != "ready\n":
            raise RuntimeError(
                f"math-verify did not start, exit status {worker.wait()}; its message is above. {INSTALL}"
            )
        return worker

    @staticmethod
    def _ask(worker: subprocess.Popen[str], request: str) -> str:
        """Send a line and read one; "" if the worker ended."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            if request:
                worker.stdin.write(f"{request}\n")
                worker.stdin.flush()
            return worker.stdout.readline()
        except BrokenPipeError:
            return ""


def work() -> None:
    """Be a worker: read lines of JSON [answer, truth, seconds], write true or false for each."""
    from verl_lad.rewards.answers import same
    from verl_lad.rewards.formulas import decide  # brings sympy, which the trainer does without

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit of its own
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what sympy prints goes elsewhere
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, truth, seconds = json.loads(line)
        # The default action of both ends the process, also in the midst of C code.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WALL_PER_CPU_SECOND * seconds)
        right = same(answer, truth, decide)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(right), file=replies, flush=True)
