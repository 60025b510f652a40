"""LADConfig refuses what is wrong in words that help; importing the package stays light."""

import dataclasses
import json
import subprocess
import sys

import pytest

from verl_lad import LADConfig
from verl_lad.objective.config import ANCHORS, FIELD_NAMES, MAX_EXPONENT, PARTITIONS, RATIOS

NOT_NUMBERS = (float("nan"), float("inf"), -float("inf"), "abc", "0.25", None, True, False, [0.25], 1j)
NUMBERS = ("eta", "alpha", "max_log_ratio", "max_log_weight")


def refused(field: str, value) -> str:
    with pytest.raises(ValueError, match=f"{field}=") as error:
        LADConfig(**{field: value})
    message = str(error.value)
    assert repr(value) in message
    return message


def test_defaults_are_the_documented_ones():
    assert dataclasses.asdict(LADConfig()) == {
        "eta": 0.25,
        "divergence": "js",
        "alpha": 0.5,
        "ratio": "token",
        "partition": "none",
        "anchor": "old",
        "max_log_ratio": 20.0,
        "max_log_weight": 20.0,
    }
    assert tuple(dataclasses.asdict(LADConfig())) == FIELD_NAMES


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize("field", NUMBERS)
def test_what_is_not_a_finite_number_is_refused(field, value):
    assert "a finite number" in refused(field, value)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1, -1e-9, -0.25])
def test_eta_must_be_positive(value):
    assert "greater than 0" in refused("eta", value)


@pytest.mark.parametrize("value", [0, 0.0, -1, -20.0, 21.0001, 22, 1e9])
@pytest.mark.parametrize("field", ["max_log_ratio", "max_log_weight"])
def test_limits_must_fit_float32(field, value):
    assert f"to {MAX_EXPONENT:g}" in refused(field, value)


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0])
def test_alpha_next_to_a_limit_is_refused_where_it_is_used(value):
    with pytest.raises(ValueError, match="alpha=") as error:
        LADConfig(divergence="alpha", alpha=value)
    assert repr(value) in str(error.value)
    assert "from -1 to 2" in str(error.value)
    LADConfig(alpha=value)


@pytest.mark.parametrize("value", [-1.5, 2.5])
def test_alpha_out_of_range_is_refused_always(value):
    assert "from -1 to 2" in refused("alpha", value)


@pytest.mark.parametrize(
    ("field", "allowed"), [("ratio", RATIOS), ("partition", PARTITIONS), ("anchor", ANCHORS)], ids=lambda x: str(x)
)
@pytest.mark.parametrize("value", ["", "Token", "tokens", None, 0, True, ["token"]], ids=repr)
def test_choices_are_refused_with_the_list_of_what_is_allowed(field, allowed, value):
    message = refused(field, value)
    for choice in allowed:
        assert choice in message


@pytest.mark.parametrize("value", ["jsd", "", None, 0, True, ["js"]], ids=repr)
def test_unknown_divergences_are_refused_with_the_list_of_names(value):
    message = refused("divergence", value)
    for name in ("js", "hellinger", "tv", "kl", "rkl", "jeffreys", "alpha"):
        assert name in message


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_every_documented_choice_is_accepted(ratio, partition, anchor):
    config = LADConfig(ratio=ratio, partition=partition, anchor=anchor)
    assert (config.ratio, config.partition, config.anchor) == (ratio, partition, anchor)


@pytest.mark.parametrize("eta", [1, 4, 1e-3, 0.0625, 1e3])
def test_etas_of_any_positive_size_and_integers_are_accepted(eta):
    assert LADConfig(eta=eta).eta == eta


def test_config_is_frozen_hashable_and_comparable():
    config = LADConfig()
    for field in FIELD_NAMES:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field, getattr(config, field))
    assert config == LADConfig()
    assert hash(config) == hash(LADConfig())
    assert config != LADConfig(eta=0.5)


def test_replace_checks_again():
    with pytest.raises(ValueError, match=r"eta=-1\.0 is not allowed"):
        dataclasses.replace(LADConfig(), eta=-1.0)


def test_unknown_fields_are_refused():
    with pytest.raises(TypeError, match="kappa"):
        LADConfig(kappa=4.0)


def test_import_of_the_package_imports_no_framework():
    code = (
        "import sys, json, verl_lad; from verl_lad import lad_loss\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(json.loads(result.stdout.splitlines()[-1]))
    assert "torch" in imported
    assert not imported & {"verl", "ray", "hydra", "omegaconf", "transformers", "vllm", "tensordict", "datasets"}


def test_the_public_names_are_the_documented_ones():
    import verl_lad

    documented = {
        "LADConfig",
        "lad_loss",
        "lad_loss_reference",
        "group_advantages",
        "get_divergence",
        "register_divergence",
    }
    assert set(verl_lad.__all__) == documented | {"__version__"}
    for name in documented:
        assert callable(getattr(verl_lad, name))
