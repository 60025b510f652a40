"""`make bench`: every benchmark of this folder, one after the other, about 20 minutes on two cores.

Prints the tables, and writes results/*.json, results/tables.md and docs/cost.png. For a quick look that writes the same
files with few rounds and small sizes: --quick. Some of them, in the place of their older tables: --only bench_loss.
liger-kernel, which bench_linear.py compares with, is looked for beside the other frameworks
(tests/adapters/conftest.py) as well.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from measure import RESULTS, machine

HERE = Path(__file__).parent
FRAMEWORKS = Path(sys.prefix) / "frameworks"
TITLES = {
    "bench_loss.py": "The loss, forward and backward with all metrics, against verl's",
    "bench_advantage.py": "The advantage estimator, against verl's",
    "bench_startup.py": "What the plugin adds to an import",
    "bench_linear.py": "From hidden states to the loss and back",
    "bench_growth.py": "How the cost grows, and its lower limit",
    "bench_evaluation.py": "Accuracy and diversity of 100,000 responses",
}
QUICK = {
    "bench_loss.py": ["--rounds=5", "--largest=40000"],
    "bench_advantage.py": ["--rounds=3"],
    "bench_startup.py": ["--rounds=1"],
    "bench_linear.py": ["--tokens=256", "--vocabulary=8192", "--rounds=2"],
    "bench_growth.py": ["--rounds=2"],
    "bench_evaluation.py": ["--problems=50"],
}


def header(here: dict) -> str:
    """One line: date, machine, versions."""
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items() if version)
    return f"{here['date']}, {here['cpu']}, Python {here['python']}, {packages}"


def older_sections(tables: Path) -> dict[str, str]:
    """Title -> text, of the file that an earlier run wrote."""
    text = tables.read_text() if tables.exists() else ""
    return dict(part.split("\n\n", 1) for part in text.split("\n## ")[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes")
    parser.add_argument("--only", default="", help="benchmarks whose names begin so")
    arguments = parser.parse_args()
    beside = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(FRAMEWORKS)]))
    tables = RESULTS / "tables.md"
    sections, failed = older_sections(tables), 0
    for command, title in TITLES.items():
        script, *options = command.split()
        if not script.startswith(arguments.only):
            continue
        options += QUICK[script] if arguments.quick else []
        print(f"\n== {command}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if script == "bench_linear.py":
            environment["PYTHONPATH"] = beside
        done = subprocess.run(
            [sys.executable, str(HERE / script), *options],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            check=False,
        )
        print(done.stdout, flush=True)
        failed += done.returncode != 0
        output = "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("[verl-lad", "USDT:")))
        body = output if output.startswith("|") or "\n|" in output else f"```json\n{output}\n```"
        sections[title] = f"{header(machine())}\n\n{body.strip() if done.returncode == 0 else 'failed'}\n"
    RESULTS.mkdir(exist_ok=True)
    written = [f"## {title}\n\n{sections[title]}" for title in TITLES.values() if title in sections]
    tables.write_text("\n".join(["# Benchmarks, of `make bench`\n", *written]))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
