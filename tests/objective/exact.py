"""g and the centred value of any l and u in 50 digits, limits included; the advantages of a group and its constant.

test_divergences.py derives the first two from f itself, where f(exp(l - u)) can be formed; test_any_input.py checks
that the closed forms here are the same numbers, and uses them everywhere.
"""

import mpmath
from mpmath import mpf

from .formulas import SATURATES_ABOVE

DIGITS = 50


def limited(name: str, alpha: float, l: mpf, u: mpf, max_log_ratio: float, max_log_weight: float) -> tuple[mpf, mpf]:
    """l and u as the package limits them (LADConfig): beyond max_log_ratio both are shifted, so that l - u stays."""

    def saturate(u: mpf) -> mpf:
        if name in SATURATES_ABOVE or (name == "alpha" and alpha < 1):
            return min(u, mpf(max_log_weight))
        return max(u, mpf(-max_log_weight)) if name == "alpha" else u

    clamped = max(min(l, mpf(max_log_ratio)), mpf(-max_log_ratio))
    return clamped, saturate(saturate(u) - (l - clamped))


def weight_and_value(name: str, alpha: float, l: mpf, u: mpf) -> tuple[mpf, mpf, mpf]:
    """g, the centred value, and the sum of the magnitudes of the value's terms: the table of the design, as printed."""
    d, rho, w, a = l - u, mpmath.exp(l), mpmath.exp(u), mpf(alpha)
    if name == "js":
        X = mpmath.exp(d)
        g = rho * -mpmath.log1p(mpmath.expm1(-d) / 2) / 2  # 1/2 rho (log 2 - softplus(-d))
        return g, g - rho * mpmath.log1p(X) / X / 2, rho * (1 + abs(d))
    if name == "hellinger":
        root = mpmath.exp((l + u) / 2)
        return -rho * mpmath.expm1(-d / 2) / 2, rho / 2 - root, rho + root
    if name == "tv":
        return rho * mpmath.sign(d) / 2, -rho / 2 if d <= 0 else rho / 2 - w, rho
    if name == "kl":
        return rho * d, rho * (d - 1), rho * (1 + abs(d))
    if name == "rkl":
        return -rho * mpmath.expm1(-d), rho - w * l, rho + w * abs(l)
    if name == "jeffreys":
        return rho * (d - mpmath.expm1(-d)), rho * d - w * l, rho * abs(d) + w * abs(l)
    mixed = mpmath.exp(a * l + (1 - a) * u)
    scale = a * (a - 1)
    return rho * mpmath.expm1((a - 1) * d) / (a - 1), (mixed - a * rho) / scale, (mixed + abs(a) * rho) / abs(scale)


def balance(name: str, alpha: float, v: list[mpf], b: mpf, max_log_weight: float) -> tuple[mpf, mpf]:
    """Return the sum of the weights of a group at rho = 1 with u = v - b, and the sum of their magnitudes."""
    u = [limited(name, alpha, mpf(0), one - b, 20.0, max_log_weight)[1] for one in v]
    g = [weight_and_value(name, alpha, mpf(0), one)[0] for one in u]
    return mpmath.fsum(g), mpmath.fsum(map(abs, g))


def constant(partition: str, name: str, alpha: float, v: list[mpf], max_log_weight: float = 20.0) -> mpf:
    """Return the constant that is subtracted from v = A / eta in a group."""
    if partition == "none":
        return mpf(0)
    if partition == "group":
        return mpmath.log(mpmath.fsum(map(mpmath.exp, v)) / len(v))
    if name == "tv":
        ordered = sorted(v)
        return (ordered[(len(v) - 1) // 2] + ordered[len(v) // 2]) / 2
    low, high = min(v), max(v)
    for _ in range(int(DIGITS * 3.4)):
        middle = (low + high) / 2
        low, high = (low, middle) if balance(name, alpha, v, middle, max_log_weight)[0] > 0 else (middle, high)
    return low


def advantages(scores: list[mpf], norm_by_std: bool) -> tuple[list[mpf], mpf]:
    """Return A of one group with these scores before any constant, and the divisor: std + 1e-6, or 1."""
    single = len(scores) == 1
    mean = mpf(0) if single else mpmath.fsum(scores) / len(scores)
    A, divisor = [s - mean for s in scores], mpf(1)
    if norm_by_std:
        std = mpf(1) if single else mpmath.sqrt(mpmath.fsum(a * a for a in A) / (len(scores) - 1))
        divisor = std + mpf(1e-6)
        A = [a / divisor for a in A]
    return A, divisor
