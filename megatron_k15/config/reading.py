"""YAML plus `key=value` into a checked config, and back."""

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_k15.config.run import Config
from megatron_k15.errors import ConfigError

C = TypeVar("C")


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The config of an RL run; see `load_config_of`."""
    return load_config_of(Config, path, overrides)


def load_config_of(cls: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Read YAML, apply `key=value` overrides, check.

    Args:
        cls: the frozen dataclass of the program's config.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of the wrong type or out of range.
    """
    try:
        given = OmegaConf.load(path) if path else OmegaConf.create({})
        chosen = OmegaConf.merge(given, OmegaConf.from_dotlist(list(overrides)))
        merged = OmegaConf.merge(_schema(cls), _off_as_text(OmegaConf.to_container(chosen), cls))
        _type_lists(merged, cls)
        config = OmegaConf.to_object(merged)
    except FileNotFoundError as error:
        raise ConfigError(f"--config must name a YAML file; {path} does not exist") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path or 'overrides'}: {error}") from error
    assert isinstance(config, cls)
    return config


def to_yaml(config: Any) -> str:
    """The resolved config, in the form `load_config_of` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def _type_lists(merged: Any, cls: type) -> None:
    """Give the entries of `tuple[SomeConfig, ...]` their type, which OmegaConf (2.4) does not: checks and defaults."""
    for item in fields(cls):
        entry_type, *_ = get_args(item.type) or (None,)
        if isinstance(entry_type, type) and is_dataclass(entry_type):
            entries = [OmegaConf.merge(_schema(entry_type), entry) for entry in merged[item.name]]
            for entry in entries:
                _type_lists(entry, entry_type)
            merged[item.name] = tuple(entries)


def _off_as_text(given: Any, cls: type) -> Any:
    """YAML reads `off` and `on` as booleans; where a field holds text they are meant as written."""
    if not isinstance(given, dict):
        return given
    types = {item.name: item.type for item in fields(cls)}

    def one(name: Any, value: Any) -> Any:
        wanted = types.get(name)
        if isinstance(wanted, type) and is_dataclass(wanted):
            return _off_as_text(value, wanted)
        return ("on" if value else "off") if wanted is str and isinstance(value, bool) else value

    return {name: one(name, value) for name, value in given.items()}


def _schema(cls: type) -> DictConfig:
    """Frozen dataclasses become read-only nodes, which would refuse the very overrides we merge."""
    schema = OmegaConf.structured(cls)

    def thaw(node: DictConfig, dataclass_type: type) -> None:
        OmegaConf.set_readonly(node, False)
        for item in fields(dataclass_type):
            if isinstance(item.type, type) and is_dataclass(item.type):
                thaw(node[item.name], item.type)

    thaw(schema, cls)
    return schema
