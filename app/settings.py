"""How a setting is described: kind, help, default and rule. Knows no particular setting and no argparse.

A configuration dataclass declares its fields with `setting(...)`; the command line, YAML files and keywords
of `LLM` are all read through that declaration, so a wrong value gets the same sentence everywhere.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from fractions import Fraction
from typing import Any, TypeVar

Config = TypeVar("Config")


class SettingError(ValueError):
    """A setting is wrong: `complaint` completes the sentence that begins with its name."""

    def __init__(self, name: str, complaint: str) -> None:
        super().__init__(f"{name} {complaint}")
        self.name = name
        self.complaint = complaint


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    rule: completes 'NAME must be ...'.   parse: from text; ValueError for what it cannot read.
    holds: whether a value obeys the rule.   metavar: how help shows it; empty for a switch.
    many: whether the flag takes several words.
    """

    rule: str
    parse: Callable[[str], Any]
    holds: Callable[[Any], bool]
    metavar: str
    many: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field's metadata says beside its default.

    optional: None is a value.   default_text: what help says of the default, if the value says too little.
    only, because: the sole value that this version supports, and why.   short: a flag of one letter.
    """

    kind: Kind
    help: str
    optional: bool
    default_text: str
    only: Any
    because: str
    short: str = ""


_ANY = object()


def setting(
    default: Any,
    kind: Kind,
    help: str,
    *,
    optional: bool = False,
    default_text: str = "",
    only: Any = _ANY,
    because: str = "",
    short: str = "",
) -> Any:
    """A dataclass field with `Setting` metadata. optional: None is a value, as it is if it is the default."""
    described = Setting(kind, help, optional or default is None, default_text, only, because, short)
    return field(default=default, metadata={"setting": described})


def settings_of(config: type[Any]) -> dict[str, tuple[Field[Any], Setting]]:
    """The settings of a configuration class by field name, in order."""
    return {f.name: (f, f.metadata["setting"]) for f in fields(config)}


def validate(config: Any) -> None:
    """Check every field against its declaration; raises SettingError for the first that is wrong."""
    for name, (_, described) in settings_of(type(config)).items():
        value = getattr(config, name)
        if value is None and described.optional:
            continue
        kind = described.kind
        if not kind.holds(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise SettingError(name, f"must be {kind.rule}, got {shown!r}")
        if described.only is not _ANY and value != described.only:
            raise SettingError(name, f"cannot be {value!r} yet: {described.because}")


def build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A `config` from `values`, text parsed by each setting's kind.

    Raises SettingError for a wrong value, and for an unknown name with the nearest known one.
    """
    known = settings_of(config)
    for name in values:
        if name not in known:
            raise SettingError(name, f"is not a setting{nearest(name, known)}")
    return config(**{name: _parsed(name, known[name][1], value) for name, value in values.items()})


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` if a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parsed(name: str, described: Setting, value: Any) -> Any:
    kind = described.kind
    words = [value] if kind.many and isinstance(value, str) else value
    if not isinstance(words, str if not kind.many else list):
        if isinstance(value, int) and abs(value) > 1 << 63:
            raise SettingError(name, f"must be below 2^63, got {value}")
        return value
    if described.optional and isinstance(value, str) and value.lower() == "none":
        return None
    try:
        if kind.many:
            return tuple(kind.parse(word) if isinstance(word, str) else word for word in words)
        return kind.parse(value)
    except ValueError:
        raise SettingError(name, f"must be {kind.rule}, got {value!r}") from None
    except OverflowError:
        raise SettingError(name, f"must be below 2^63, got {value!r}") from None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(minimum: int, maximum: int | None = None) -> Kind:
    """A whole number."""
    rule = (
        f"an integer of at least {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"
    )
    return Kind(
        rule,
        parse_count,
        lambda v: _is_integer(v) and v >= minimum and (maximum is None or v <= maximum),
        "N",
    )


def integer_or_auto(minimum: int, maximum: int) -> Kind:
    """A whole number, or the word auto."""
    return Kind(
        f"an integer from {minimum} to {maximum}, or auto",
        lambda word: word if word == "auto" else parse_count(word),
        lambda v: v == "auto" or (_is_integer(v) and minimum <= v <= maximum),
        "N|auto",
    )


def number(rule: str, holds: Callable[[float], bool], metavar: str) -> Kind:
    """A finite number."""
    return Kind(f"a number {rule}", float, lambda v: _is_number(v) and holds(v), metavar)


def choice(*names: str) -> Kind:
    """One of a few words."""
    return Kind("one of " + ", ".join(names), str, lambda v: v in names, "|".join(names))


def text(metavar: str) -> Kind:
    """Any text but none."""
    return Kind("text that is not empty", str, lambda v: isinstance(v, str) and bool(v), metavar)


def texts(
    metavar: str,
    rule: str = "a list of texts that are not empty",
    holds: Callable[[str], bool] = bool,
) -> Kind:
    """Several texts, kept as a tuple."""
    return Kind(
        rule,
        str,
        lambda v: isinstance(v, tuple) and all(isinstance(t, str) and holds(t) for t in v),
        metavar,
        many=True,
    )


def numbers(rule: str, holds: Callable[[float], bool], metavar: str) -> Kind:
    """Several finite numbers, kept as a tuple."""
    return Kind(
        f"a list of numbers {rule}",
        float,
        lambda v: isinstance(v, tuple) and all(_is_number(n) and holds(n) for n in v),
        metavar,
        many=True,
    )


_SWITCH_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def _parse_switch(word: str) -> bool:
    if word.lower() not in _SWITCH_WORDS:
        raise ValueError(word)
    return _SWITCH_WORDS[word.lower()]


SWITCH = Kind("true or false", _parse_switch, lambda v: isinstance(v, bool), "")

_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG]?)")
_COUNT_UNITS = {"": 1, "k": 10**3, "K": 1 << 10, "m": 10**6, "M": 1 << 20, "g": 10**9, "G": 1 << 30}


def parse_count(word: str) -> int:
    """`4096`, `8k` (8,000) or `8K` (8,192): as in vLLM, lower case is decimal and upper case binary.

    ValueError for what is no whole number, OverflowError for one that no machine could count to.
    """
    match = _COUNT.fullmatch(word.strip())
    if match is None:
        return int(word)
    value = Fraction(match[1]) * _COUNT_UNITS[match[2]]  # a float would change numbers of 16 digits and more
    if value.denominator != 1:
        raise ValueError(word)
    return _countable(value.numerator)


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)


def parse_bytes(word: str) -> int:
    """`4GiB` and `4G` (2^30), `4GB` (10^9), or a plain number of bytes. Errors as in `parse_count`."""
    match = _BYTES.fullmatch(word.strip())
    if match is None:
        raise ValueError(word)
    if match[2] is None:
        return _countable(int(match[1]))
    decimal = not match[3] and word.strip()[-1] in "bB"
    unit = (1000 if decimal else 1024) ** ("kmgt".index(match[2].lower()) + 1)
    return _countable(int(Fraction(match[1]) * unit))


def _countable(value: int) -> int:
    if value >= 1 << 63:
        raise OverflowError(value)
    return value


SIZE_BYTES = Kind(
    "a number of bytes such as 4GiB or 512MiB", parse_bytes, lambda v: _is_integer(v) and v > 0, "N|4GiB"
)


def _parse_length(word: str) -> int | str:
    return word if word == "auto" else parse_count(word)


LENGTH = Kind(
    "a positive number of tokens such as 4096 or 8k, or auto",
    _parse_length,
    lambda v: v == "auto" or (_is_integer(v) and v > 0),
    "N|8k|auto",
)
