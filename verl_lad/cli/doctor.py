"""Print what `verl-lad doctor` finds: the adapter's checks, and those of the recipes' rewards."""

import textwrap
from collections.abc import Sequence

from verl_lad.adapters.verl import doctor
from verl_lad.adapters.verl.doctor import Finding

__all__ = ["Finding", "examine", "format_findings"]

LABELS = {"ok": "ok", "warning": "WARNING", "broken": "BROKEN"}


def examine(ray_address: str | None) -> list[Finding]:
    """Return the adapter's findings, and where LAD itself is ready, whether the recipes' rewards are too.

    Args:
        ray_address: as for the adapter's `examine`.
    """
    findings = doctor.examine(ray_address)
    if any(finding.status == "broken" for finding in findings):
        return findings
    return [*findings, _examine_math_reward(), _examine_sandbox()]


def _examine_math_reward() -> Finding:
    try:
        import verl_lad.rewards.math  # noqa: F401
    except ImportError as error:
        return Finding("math reward", "warning", f"{error}", "only recipes/run_*_math.sh need it")
    return Finding("math reward", "ok", "math-verify is installed")


def _examine_sandbox() -> Finding:
    from verl_lad.rewards.sandbox import SandboxError, check_confinement

    try:
        check_confinement()
    except SandboxError as error:
        return Finding("sandbox", "warning", f"{error}", "only recipes/run_*_code.sh need it")
    return Finding("sandbox", "ok", "model-written programs are confined here")


def format_findings(findings: Sequence[Finding]) -> str:
    """Format one screen of text: a line for each finding, below it what to do, and a verdict at the end."""
    width = max(len(finding.name) for finding in findings)
    indent = " " * (width + 11)
    lines = []
    for finding in findings:
        first, *rest = finding.detail.splitlines() or [""]
        lines.append(f"{LABELS[finding.status]:<8} {finding.name:<{width}}  {first}")
        lines += [textwrap.indent(line, indent) for line in rest]
        if finding.remedy is not None:
            lines.append(f"{indent}-> {finding.remedy}")
    broken = [finding.name for finding in findings if finding.status == "broken"]
    verdict = f"LAD is not ready. Begin with: {broken[0]}" if broken else "LAD is ready: algorithm.policy_loss=lad"
    return "\n".join([*lines, "", verdict])
