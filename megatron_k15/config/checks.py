"""The rules that config fields are checked by; each error names the field, the rule and what was found."""

from collections.abc import Sequence

from megatron_k15.errors import ConfigError

DTYPES = ("auto", "bf16", "fp32")


def one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def at_least(name: str, value: float | None, minimum: float) -> None:
    if value is not None and not value >= minimum:
        raise ConfigError(f"{name} must be at least {minimum}, got {value}")


def above_zero(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"{name} must be above 0, got {value}")
