"""Find out for `verl-lad doctor` whether LAD is ready in this environment, and if not, what to do about it.

The questions come in the order of dependence: is it found, is it registered, does verl compose with it, and does each
Ray node have it? Nothing here imports verl at its head: the doctor sees whether `import verl` alone brings LAD in.
"""

import contextlib
import logging
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import verl_lad.adapters.verl as adapter
from verl_lad.adapters.verl import DISCOVERING_VERL, MINIMUM_VERL, NAME
from verl_lad.version import __version__

GROUP = "verl.plugins"
PLUGIN = "verl_lad.adapters.verl.plugin"
OURS = {
    "policy loss": "verl_lad.adapters.verl.policy_loss.compute_policy_loss_lad",
    "advantage estimator": "verl_lad.adapters.verl.advantage.compute_lad_outcome_advantage",
}
POLICY_LOSS_TARGET = "verl_lad.adapters.verl.settings.LADPolicyLossConfig"
COMPOSE = [
    *("-m", "verl.trainer.main_ppo", "--cfg", "job", "--resolve", "--package", "actor_rollout_ref.actor.policy_loss"),
    *(f"algorithm.policy_loss={NAME}", f"algorithm.adv_estimator={NAME}", "actor_rollout_ref.rollout.n=2"),
]
COMPOSE_SECONDS = 300

UPGRADE = f"pip install --upgrade 'verl>={DISCOVERING_VERL}'"
REINSTALL = "pip install --force-reinstall --no-deps verl-lad (from a checkout: pip install --no-deps -e .)"
TRAINER_REQUIREMENTS = "pip install cachetools uvicorn fastapi 'TransferQueue>=0.1.10' pyzmq msgspec"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: what was looked at.
        status: "broken" if LAD cannot be used before this is mended; "warning" if it may matter.
        detail: what was seen; may have several lines.
        remedy: what to do about it, in one line; None if nothing.
    """

    name: str
    status: Literal["ok", "warning", "broken"]
    detail: str
    remedy: str | None = None


def examine(ray_address: str | None) -> list[Finding]:
    """Look at versions, discovery, registration and composition; imports verl. Prints nothing on stdout.

    Args:
        ray_address: "local" starts a Ray for a moment and looks into a worker as well; "auto" or the address of a
            running cluster, into a worker on each of its nodes; None leaves Ray alone.

    Returns:
        The findings in the order of dependence: the first broken one is the cause of those after it.
    """
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages print does not belong into our output
        findings = [
            Finding("verl-lad", "ok", f"{__version__} in {Path(adapter.__file__).resolve().parents[2]}"),
            Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        ]
        verl, finding = _import_verl()
        findings += [finding, *_guarded("versions", "repair the installation it names", _examine_versions)]
        findings += _guarded("discovery", REINSTALL, _examine_discovery, verl and verl.__version__)
        if finding.status == "broken":
            return findings
        findings += _guarded("plugin", REINSTALL, _examine_registration, findings[-1].status != "broken")
        ready = all(finding.status == "ok" for finding in findings[-1 - len(OURS) :])
        if not ready:
            detail = "not tried, and no Ray worker, since this process has no LAD"
            return [*findings, Finding("command line", "warning", detail, "repair the above first")]
        findings += _guarded("command line", REINSTALL, _examine_composition)
        if ray_address:
            remedy = "see that `python -c 'import ray; ray.init()'` works, for a cluster `ray status`; then try again"
            findings += _guarded("ray worker", remedy, _examine_ray, ray_address)
        return findings


def _guarded(name: str, remedy: str, check: Callable[..., Iterator[Finding]], *arguments: Any) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check(*arguments))
    except Exception as error:  # whatever it is, the user is to see it, and the other findings too
        findings.append(Finding(name, "broken", _describe(error), remedy))
    return findings


def _describe(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}\nat {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"


def _release(version: str) -> tuple[int, ...]:
    from packaging.version import Version

    return Version(version).release


def _import_verl() -> tuple[Any, Finding]:
    """Import verl, and nothing of LAD, and say what came of it; the first value is None without verl."""
    try:
        import verl
    except Exception as error:  # verl is not ours: anything may go wrong in there
        if isinstance(error, ModuleNotFoundError) and error.name == "verl":
            return None, Finding("verl", "broken", f"not installed ({error})", UPGRADE)
        remedy = "repair it, or VERL_USE_EXTERNAL_MODULES, until `python -c 'import verl'` works"
        return None, Finding("verl", "broken", f"`import verl` fails: {_describe(error)}", remedy)
    place = f"{verl.__version__} in {Path(verl.__file__).resolve().parent}"
    if _release(verl.__version__) < _release(MINIMUM_VERL):
        return verl, Finding("verl", "broken", f"{place} is too old: verl-lad needs verl >= {MINIMUM_VERL}", UPGRADE)
    return verl, Finding("verl", "ok", place)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _examine_versions() -> Iterator[Finding]:
    for name in ("torch", "ray", "hydra-core", "omegaconf", "vllm", "transformers"):
        version, cpu_version = _version(name), _version(f"{name}-cpu")
        if version is not None:
            yield Finding(name, "ok", version)
        elif cpu_version is not None:
            yield Finding(name, "ok", f"{cpu_version} ({name}-cpu: start verl through `python -m verl_lad.cpu.run`)")
        elif name in ("vllm", "transformers"):
            remedy = f"pip install {name}, in the version that your verl asks for"
            yield Finding(name, "warning", "not installed; verl's models or its rollout by vLLM need it", remedy)
        else:
            yield Finding(name, "broken", "not installed; verl needs it", f"pip install {name}")


def _examine_discovery(verl_version: str | None) -> Iterator[Finding]:
    """Apply the rules by which `import verl` finds plugins. The first row whose condition holds is the finding."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    # As verl reads it: the empty string is a list without us.
    allowed = policy.strip().lower() == "auto" or NAME in [item.strip() for item in policy.lower().split(",")]
    with_us = ",".join([*filter(None, policy.split(",")), NAME]) if policy.strip().lower() != "none" else NAME
    entry_points = [point for point in metadata.entry_points(group=GROUP) if point.name == NAME]
    others = "".join(f"; there is {point.name} = {point.value}" for point in entry_points)
    ours = any(point.value == PLUGIN for point in entry_points)
    by_module = PLUGIN in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")
    release = _release(verl_version or DISCOVERING_VERL)
    too_old = release < _release(MINIMUM_VERL)
    blind = release < _release(DISCOVERING_VERL)
    no_plugins = f"verl {verl_version} does not look for plugins, which came with {DISCOVERING_VERL}"
    variable = f"VERL_USE_EXTERNAL_MODULES={PLUGIN}"
    patch = f"export {variable} on every node, or apply the patch for this release in patches/"
    entry_point = f"entry point {NAME} = {PLUGIN} in group {GROUP}"
    install = "pip install verl-lad on every node: PYTHONPATH alone does not do (in a checkout: pip install -e .)"
    keeps_out = f"VERL_USE_EXTERNAL_PLUGINS={policy!r} keeps verl from loading the plugin {NAME!r}"
    let_in = f"unset VERL_USE_EXTERNAL_PLUGINS, or set VERL_USE_EXTERNAL_PLUGINS={with_us}, on every node"
    result = partial(Finding, "discovery")
    rows = (
        (too_old, result("broken", f"{no_plugins}. {variable} is no help: the plugin refuses this verl", UPGRADE)),
        (blind and by_module, result("ok", f"{variable}, which must be set on every node")),
        (blind and PLUGIN not in sys.modules, result("broken", no_plugins, patch)),  # patched, it finds as 0.9.0 does
        (by_module and not (allowed and ours), result("warning", f"{variable}, and no entry point", install)),
        (not ours, result("broken", f"no installed distribution has the {entry_point}{others}", install)),
        (not allowed, result("broken", keeps_out, let_in)),
        (True, result("ok", entry_point)),
    )
    yield next(finding for holds, finding in rows if holds)


def _examine_registration(discovered: bool) -> Iterator[Finding]:
    from verl.trainer.ppo import core_algos

    registries = (core_algos.POLICY_LOSS_REGISTRY, core_algos.ADV_ESTIMATOR_REGISTRY)
    holders = [registry.get(NAME) for registry in registries]
    names = [holder and f"{holder.__module__}.{getattr(holder, '__qualname__', holder)}" for holder in holders]
    owners = dict(zip(OURS, names, strict=True))
    if adapter.load_error is not None:
        taken = any(owner not in (None, OURS[kind]) for kind, owner in owners.items())
        remedy = "see below who holds the name" if taken else REINSTALL
        yield Finding("plugin", "broken", f"could not load: {adapter.load_error}", remedy)
    elif PLUGIN in sys.modules:
        yield Finding("plugin", "ok", "loaded by `import verl`")
    else:
        remedy = f"see why: python -c 'import {PLUGIN}'" if discovered else "repair `discovery` first"
        yield Finding("plugin", "broken", "not loaded by `import verl`", remedy)
    for kind, owner in owners.items():
        if owner == OURS[kind]:
            yield Finding(kind, "ok", f"{NAME} is {owner}")
        elif owner is None:
            yield Finding(kind, "broken", f"{NAME} is not registered", "repair the above first")
        else:
            remedy = f"uninstall it, or set VERL_USE_EXTERNAL_PLUGINS={NAME} and mind VERL_USE_EXTERNAL_MODULES"
            yield Finding(kind, "broken", f"the name {NAME} belongs to {owner}", remedy)


def _examine_composition() -> Iterator[Finding]:
    """Compose in a process of its own, by the command that a user would type."""
    command = [sys.executable, *COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=COMPOSE_SECONDS)
    missing = {f"loss_mode: {NAME}", f"_target_: {POLICY_LOSS_TARGET}"} - set(done.stdout.splitlines())
    if done.returncode != 0:
        reason = "\n".join([line for line in done.stderr.splitlines() if line.strip()][-6:])
        detail = f"main_ppo does not compose with algorithm.policy_loss={NAME}: exit status {done.returncode}\n{reason}"
        whole = f"see it whole: HYDRA_FULL_ERROR=1 {shlex.join(command)}"
        remedy = TRAINER_REQUIREMENTS if "ModuleNotFoundError" in reason else whole
        yield Finding("command line", "broken", detail, remedy)
    elif missing:
        detail = f"actor_rollout_ref.actor.policy_loss is composed without {' and '.join(sorted(missing))}"
        remedy = f"another package provides ppo_trainer: {sys.executable} -m verl.trainer.main_ppo --info searchpath"
        yield Finding("command line", "broken", detail, remedy)
    else:
        yield Finding("command line", "ok", f"main_ppo takes {' '.join(COMPOSE[-3:-1])}")


def _examine_ray(address: str) -> Iterator[Finding]:
    """Look into a worker on each node, of a Ray that is started for it ("local") or of a running cluster."""
    import ray

    from verl_lad.adapters.verl.cluster import look_into_nodes

    local = address == "local"
    # Short, for the sockets in it; a directory of our own, so that `ray status` of a running cluster is not led here.
    with tempfile.TemporaryDirectory(prefix="lad-doctor-", dir="/tmp", ignore_cleanup_errors=True) as session:
        options = {"num_cpus": 1, "include_dashboard": False, "_temp_dir": session} if local else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            nodes = look_into_nodes()
        finally:
            ray.shutdown()
    for node in nodes:
        name = "ray worker" if local else f"ray node {node.name}"
        if node.complaint is None:
            yield Finding(name, "ok", f"verl-lad {__version__}")
        else:
            remedy = f"pip install --no-deps verl-lad=={__version__} there, and start its Ray again"
            yield Finding(name, "broken" if local or node.trains else "warning", node.complaint, remedy)
