"""`make matrix`: test_release.py with each supported release of verl; a table in markdown and in JSON.

`make matrix MATRIX='--python python3.12 --releases 0.9.1'` does so under another Python.

Each release has an environment of its own: what pip resolves for it today, with the torch that `make install` took, and
this checkout. Before 0.9.0, which has no plugins, the checks run twice: with VERL_USE_EXTERNAL_MODULES, and without it
after `patch -p1 < patches/verl-RELEASE.patch`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

from packaging.version import Version

ROOT = Path(__file__).parents[2]
RELEASES = ("0.7.1", "0.8.0", "0.9.0", "0.9.1")
CHECKS = {
    "registration": ("test_registration",),
    "composition": ("test_composition", "test_bad_settings", "test_the_bypass_mode"),
    "dataclasses": ("test_dataclasses",),
    "ppo_loss gradient": ("test_gradient",),
}
PLUGIN = "verl_lad.adapters.verl.plugin"
# The trainers import these, and verl's wheel does not ask for them.
TRAINER_REQUIREMENTS = ("cachetools", "uvicorn", "fastapi", "TransferQueue>=0.1.10", "pyzmq", "msgspec")
# They ask for numpy < 2 and any pyarrow; today's pyarrow asks for numpy 2, in its code and not in its metadata.
ALSO = {"0.7.1": ("pyarrow<21",), "0.8.0": ("pyarrow<21",)}
NAMED = ("torch", "tensordict", "transformers", "hydra-core", "numpy", "ray")


def install(release: str, directory: Path, base: str) -> Path:
    """Makes the release's environment of the Python `base` in the directory, unless it is there; returns its Python."""
    python, done = directory / "bin" / "python", directory / "done"
    if not done.exists() or done.read_text() != base:
        subprocess.run([base, "-m", "venv", "--clear", str(directory)], check=True)
        for wanted in (
            [f"torch=={metadata.version('torch').partition('+')[0]}"],
            [f"verl=={release}", *TRAINER_REQUIREMENTS, *ALSO.get(release, ()), "pytest", "pytest-timeout"],
            ["--no-deps", "--editable", str(ROOT)],
        ):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        done.write_text(base)
    return python


def versions(python: Path) -> dict[str, str]:
    """The Python, and what pip resolved for the release, of the packages that the checks touch."""
    code = (
        "import json, platform; from importlib.metadata import version; "
        f"print(json.dumps({{'Python': platform.python_version(), **{{n: version(n) for n in {NAMED}}}}}))"
    )
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)
    return found


def patch(release: str, python: Path, *options: str) -> None:
    """Apply the release's patch to the verl of that environment; revert it with the option --reverse."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
    site_packages = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    command = ["patch", "-p1", *options, f"--input={ROOT / 'patches' / f'verl-{release}.patch'}"]
    subprocess.run(command, check=True, cwd=site_packages)


def check(python: Path, junit: Path, modules: str | None) -> dict[str, str]:
    """Runs test_release.py; for each of CHECKS "12 passed", or "3 of 12 failed"."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VERL_USE_EXTERNAL")}
    environment["OMP_NUM_THREADS"] = "1"
    if modules is not None:
        environment["VERL_USE_EXTERNAL_MODULES"] = modules
    junit.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit}", "tests/matrix/test_release.py"]
    subprocess.run([python, *command], env=environment, cwd=ROOT, timeout=1200, check=False)
    cases = list(ElementTree.parse(junit).iter("testcase"))
    results = {}
    for name, prefixes in CHECKS.items():
        ours = [case for case in cases if case.get("name", "").startswith(prefixes)]
        bad = sum(case.find(outcome) is not None for case in ours for outcome in ("failure", "error", "skipped"))
        results[name] = f"{len(ours)} passed" if ours and not bad else f"{bad} of {len(ours)} failed"
    return results


def main() -> int:
    """Installs, checks, prints and writes; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "matrix")
    parser.add_argument("--python", default=sys.executable, help="whose environments; default: this one")
    parser.add_argument("--releases", nargs="+", choices=RELEASES, default=RELEASES, metavar="RELEASE", help="of verl")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for release in arguments.releases:
        python = install(release, output / f"verl-{release}", arguments.python)
        has_plugins = Version(release) >= Version("0.9.0")
        runs = [("entry point", None)] if has_plugins else [("VERL_USE_EXTERNAL_MODULES", PLUGIN), ("patched", None)]
        for found_by, modules in runs:
            if found_by == "patched":
                patch(release, python)
            try:
                results = check(python, output / "junit.xml", modules)
            finally:
                if found_by == "patched":
                    patch(release, python, "--reverse")
            rows.append({"verl": release, "found_by": found_by, "results": results, "versions": versions(python)})
    record = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "verl_lad": metadata.version("verl-lad"),
        "rows": rows,
    }
    (output / "matrix.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"| verl | found by | {' | '.join(CHECKS)} |", "|---|---|" + "---|" * len(CHECKS)]
    lines += [f"| {row['verl']} | {row['found_by']} | {' | '.join(row['results'].values())} |" for row in rows]
    lines += ["", f"{record['date']}, verl-lad {record['verl_lad']}."]
    lines += [
        f"verl {row['verl']}: {', '.join(f'{name} {version}' for name, version in row['versions'].items())}."
        for row in rows
    ]
    text = "\n".join(dict.fromkeys(lines)) + "\n"
    (output / "matrix.md").write_text(text)
    print(text)
    return 1 if any("failed" in result for row in rows for result in row["results"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
