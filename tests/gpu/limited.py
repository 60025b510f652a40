"""`python3 limited.py SECONDS COMMAND ...` runs the command, stops it after that time, and leaves no process behind.

Ray and vLLM start daemons in sessions of their own, which would keep the GPU's memory. They are adopted and ended by
pid, as verl_lad.cpu.run does for runs without a GPU.
"""

import signal
import subprocess
import sys

from verl_lad.cpu.run import STOP_SECONDS, TIMED_OUT, adopt_orphans, stop_descendants


def main() -> int:
    limit, command = float(sys.argv[1]), sys.argv[2:]
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"limited: stopped after {limit:g} s", file=sys.stderr, flush=True)
        process.send_signal(signal.SIGINT)
        status = TIMED_OUT
        try:
            process.wait(STOP_SECONDS / 2)
        except subprocess.TimeoutExpired:
            process.kill()
    finally:
        stop_descendants()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
