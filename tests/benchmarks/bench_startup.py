"""What our plugin adds to `import verl`: `python tests/benchmarks/bench_startup.py`.

Fresh processes in turn, with VERL_USE_EXTERNAL_PLUGINS=none and =auto: bare `import verl`, and the import of verl's
trainer, which needs the modules that the plugin registers in anyway. CPU seconds of the process.
"""

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from measure import interleaved_seconds, markdown_table, spread, write_results  # isort: skip

STATEMENTS = ("import verl", "import verl.trainer.main_ppo")
PLUGINS = ("none", "auto")


def seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fresh_process(statement: str, plugins: str) -> Callable[[], object]:
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": plugins}
    command = [sys.executable, "-c", statement]
    return partial(subprocess.run, command, env=environment, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = []
    for statement in STATEMENTS:
        contenders = {plugins: fresh_process(statement, plugins) for plugins in PLUGINS}
        seconds = interleaved_seconds(contenders, arguments.rounds, clock=seconds_of_children)
        added = [auto - none for none, auto in zip(*(seconds[plugins] for plugins in PLUGINS), strict=True)]
        results.append(
            {
                "statement": statement,
                "seconds": {plugins: spread(values) for plugins, values in seconds.items()},
                "added_seconds": spread(added),
            }
        )
    write_results("startup", results)
    rows = [
        [
            f"`{result['statement']}`",
            *(f"{result['seconds'][plugins]['median']:.2f}" for plugins in PLUGINS),
            "{median:.3f} ({low:.3f} to {high:.3f})".format(**result["added_seconds"]),
        ]
        for result in results
    ]
    print(markdown_table(["", "without, s", "with, s", "added, s"], rows))


if __name__ == "__main__":
    main()
