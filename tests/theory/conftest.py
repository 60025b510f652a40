"""The same examples in every run, and no deadline on a shared core."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "theory",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("theory")
