"""Serve verl's own `ppo_trainer` to Hydra with our keys merged in, so that a stock command line may use them.

Hydra refuses keys that a config does not have, and verl's primary config is a file inside verl. So a config source,
`verl-lad://`, holds one config, ppo_trainer: verl's file as installed, plus lad.yaml. Everything that inherits it by
name (ppo_megatron_trainer, fully_async_ppo_trainer, recipes with hydra.searchpath) gets the keys as well.
"""

import itertools
from importlib.resources import files

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from verl_lad.adapters.verl.checks import check
from verl_lad.adapters.verl.presets import PRESETS, WHEN_ANCHORED, default

SCHEME = "verl-lad"
CONFIG_NAME = "ppo_trainer"
VERL_CONFIG_DIR = ("verl/trainer/config", "verl.trainer.config")


def _plain_name(config_path: str) -> str:
    return config_path.removesuffix(".yaml")


def our_keys() -> DictConfig:
    """Read lad.yaml."""
    keys = OmegaConf.load(str(files(__package__) / "lad.yaml"))
    assert isinstance(keys, DictConfig)
    return keys


def merged_ppo_trainer() -> DictConfig:
    """Merge lad.yaml and the keys of presets.py into verl's ppo_trainer.yaml, as installed; keep its defaults list."""
    directory = files("verl.trainer.config")
    stock = OmegaConf.load(str(directory / f"{CONFIG_NAME}.yaml"))
    actor = {"actor_rollout_ref": {"actor": OmegaConf.load(str(directory / "actor" / "actor.yaml"))}}
    merged = OmegaConf.merge(stock, our_keys())
    assert isinstance(merged, DictConfig)
    # Open, so that a misspelt key reaches our own check, which names the allowed ones.
    OmegaConf.set_struct(merged.algorithm.lad, False)
    defaults = OmegaConf.merge(actor, merged)
    for key in itertools.chain(WHEN_ANCHORED, *PRESETS.values()):
        value = OmegaConf.select(defaults, key, throw_on_missing=True)
        OmegaConf.update(merged, key, f"${{verl_lad.default:{key},{value}}}")
    return merged


class VerlLadConfigSource(ConfigSource):
    """Config source `verl-lad://`, with ppo_trainer as its only config."""

    @staticmethod
    def scheme() -> str:
        """Return the URL scheme."""
        return SCHEME

    def available(self) -> bool:
        """Return True: the source is a part of this package."""
        return True

    def is_config(self, config_path: str) -> bool:
        """Return whether the path names our one config."""
        return _plain_name(config_path) == CONFIG_NAME

    def is_group(self, config_path: str) -> bool:
        """Return whether the path is the root, our only group."""
        return config_path == ""

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """List our one config."""
        wanted = config_path == "" and results_filter in (None, ObjectType.CONFIG)
        return [CONFIG_NAME] if wanted else []

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the merged ppo_trainer.

        Raises:
            ConfigLoadError: for any other name.
        """
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found: {config_path}")
        text = (files("verl.trainer.config") / f"{CONFIG_NAME}.yaml").read_text(encoding="utf-8")
        return ConfigResult(
            config=merged_ppo_trainer(),
            path=f"{SCHEME}://",
            provider=self.provider,
            header=self._get_header_dict(text),
        )


class VerlLadSearchPath(SearchPathPlugin):
    """Search path with the source in front of verl's own config directory, and behind anybody else's.

    A foreign application keeps its own ppo_trainer if it has one; one that inherits verl's through hydra.searchpath,
    which Hydra appends later, finds ours first.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the source. Hydra calls this once for each application, after it has added the main directory."""
        main = [entry.path.rstrip("/") for entry in search_path.get_path() if entry.provider == "main" and entry.path]
        add = search_path.prepend if any(path.endswith(VERL_CONFIG_DIR) for path in main) else search_path.append
        add(provider=SCHEME, path=f"{SCHEME}://")


def checked(target: str, *, _root_: DictConfig) -> str:
    """Resolve verl_lad.checked: the name of one of our dataclasses, after a check of the whole configuration."""
    check(_root_)
    return target


def register() -> None:
    """Register the resolvers and the two Hydra plugins in this process.

    Raises:
        FileNotFoundError: if lad.yaml is missing. It shows here, not when a run composes its configuration.
    """
    our_keys()
    OmegaConf.register_new_resolver("verl_lad.default", default, replace=True)
    OmegaConf.register_new_resolver("verl_lad.checked", checked, replace=True)
    plugins = Plugins.instance()
    plugins.register(VerlLadConfigSource)
    plugins.register(VerlLadSearchPath)
