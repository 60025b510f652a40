"""SkyRL adapter (0.3.0, 0.4.0): python -m verl_lad.adapters.skyrl.main_base, with the keys of SkyRL's own main_base."""
