"""Settings of a service: a frozen dataclass, filled from flags, environment, a file and defaults, in this order.

    @dataclass(frozen=True)
    class Settings:
        listen_address: Annotated[str, "host:port to serve on"] = "127.0.0.1:9443"
        drain: Annotated[Seconds, "how long open calls may go on at shutdown"] = 10.0
        token_file: Annotated[Path | None, "file that holds the token"] = None

    settings = load(Settings)   # --listen-address, VIRTRIGAUD_LISTEN_ADDRESS, listen_address in --config FILE

Field types: str, int, float, bool, Path, an Enum, a Literal, Seconds, list[...] of these, and any of them `| None`.
Secrets come in files alone: a field that sounds like a secret and is not called `*_file` is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import os
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import yaml

from common import redact

T = TypeVar("T")


class _SecondsMark:
    """Marks a float that is written as a duration."""


Seconds = Annotated[float, _SecondsMark()]
"""A duration in seconds, written "90", "90s", "1m30s", "500ms", "2h" or "1d"."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


class SettingsError(Exception):
    """Settings that cannot be used; one line per problem: the field, where its value is from, and the cure."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: Any  # a type form; typing has no static type for those that 3.11 knows
    help: str
    default: Any
    seconds: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    source: str


def load(
    cls: type[T],
    argv: Sequence[str] | None = None,
    env_prefix: str = "VIRTRIGAUD_",
    *,
    environ: Mapping[str, str] | None = None,
    version: str | None = None,
) -> T:
    """Fill the dataclass.

    Args:
        argv: arguments without the program's name; None takes the process's own. `--help` prints and exits.
        environ: None takes the process's own.
        version: what `--version` prints.
    Raises:
        SettingsError: names every problem at once.
    """
    environ = os.environ if environ is None else environ
    fields = _fields(cls)
    flags = _parse(cls, fields, sys.argv[1:] if argv is None else argv, env_prefix, version)
    config = flags.pop("config", None) or environ.get(env_prefix + "CONFIG")
    problems: list[str] = []
    in_file = _read_config(Path(config), fields, problems) if config else {}
    values: dict[str, Any] = {}
    for field in fields:
        given = _given(field, flags, environ, env_prefix, in_file)
        if given is None:
            if field.required:
                problems.append(f"{field.name} is missing: give {field.flag} or set {_variable(env_prefix, field)}")
            continue
        try:
            values[field.name] = _convert(field.type, given.value, seconds=field.seconds)
        except ValueError as error:
            problems.append(f"{field.name} (from {given.source}): {error}")
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        return cls(**values)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _fields(cls: type[Any]) -> list[_Field]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for each in dataclasses.fields(cls):
        if not each.init:
            continue
        hint, texts, seconds = _unwrapped(hints[each.name])
        if redact.secret_key(each.name):
            raise TypeError(f"{cls.__name__}.{each.name} would hold a secret: take {each.name}_file instead")
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        found.append(_Field(each.name, hint, each.metadata.get("help", texts), default, seconds))
    return found


def _unwrapped(hint: Any) -> tuple[Any, str, bool]:
    """Type, help text and whether it is a duration; Optional[Annotated[...]] is looked into as well."""
    if typing.get_origin(hint) is Annotated:
        inner, texts, seconds = _unwrapped(hint.__origin__)
        own = " ".join(each for each in hint.__metadata__ if isinstance(each, str))
        return inner, own or texts, seconds or any(isinstance(each, _SecondsMark) for each in hint.__metadata__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_unwrapped(each) for each in typing.get_args(hint)]
        return hint, next((text for _, text, _ in parts if text), ""), any(seconds for _, _, seconds in parts)
    return hint, "", False


def _variable(prefix: str, field: _Field) -> str:
    return prefix + field.name.upper()


def _given(
    field: _Field, flags: dict[str, Any], environ: Mapping[str, str], prefix: str, in_file: dict[str, _Given]
) -> _Given | None:
    if field.name in flags:
        return _Given(flags[field.name], field.flag)
    variable = _variable(prefix, field)
    if variable in environ:
        return _Given(environ[variable], f"environment {variable}")
    return in_file.get(field.name)


# -- flags ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; {self.prog} --help lists every flag")


def _parse(
    cls: type[Any], fields: list[_Field], argv: Sequence[str], prefix: str, version: str | None
) -> dict[str, Any]:
    parser = _Parser(
        description=(cls.__doc__ or "").strip(),
        epilog="A flag wins over the environment, the environment over the file, the file over the default.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"TOML or YAML file with settings [{prefix}CONFIG]")
    if version is not None:
        parser.add_argument("--version", action="version", version=version)
    for field in fields:
        text = f"{field.help} [{_variable(prefix, field)}{_shown_default(field)}]".strip().replace("%", "%%")
        kind = _plain(field.type)
        if kind is bool:
            parser.add_argument(field.flag, dest=field.name, action=argparse.BooleanOptionalAction, help=text)
        elif typing.get_origin(kind) is list:
            parser.add_argument(
                field.flag, dest=field.name, action="append", metavar="VALUE", help=text + " (repeatable)"
            )
        else:
            parser.add_argument(field.flag, dest=field.name, metavar=_metavar(kind, field.seconds), help=text)
    return vars(parser.parse_args(list(argv)))


def _metavar(kind: Any, seconds: bool) -> str:
    if seconds:
        return "DURATION"
    choices = _choices(kind)
    if choices:
        return "|".join(choices)
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "VALUE")


def _shown_default(field: _Field) -> str:
    if field.required:
        return "; required"
    default = field.default.value if isinstance(field.default, enum.Enum) else field.default
    return "" if default in (None, "", [], ()) else f"; default {default}"


# -- the file ------------------------------------------------------------------------------------------------------


def _read_config(path: Path, fields: list[_Field], problems: list[str]) -> dict[str, _Given]:
    try:
        text = path.read_text("utf-8")
        table = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"config file {path} cannot be read: {error.strerror if isinstance(error, OSError) else error}")
        return {}
    except (tomllib.TOMLDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        where = " ".join(str(error).split())
        problems.append(f"config file {path} is no valid {'TOML' if path.suffix == '.toml' else 'YAML'}: {where}")
        return {}
    if table is None:
        return {}
    if not isinstance(table, dict):
        problems.append(f"config file {path} must hold settings by name, like `log_level: debug`")
        return {}
    names = [field.name for field in fields]
    found = {}
    for key, value in table.items():
        name = str(key).replace("-", "_")
        if name in names:
            found[name] = _Given(value, f"{path}")
            continue
        near = difflib.get_close_matches(name, names, n=1)
        problems.append(
            f"{key} (from {path}) is no setting" + (f": did you mean {near[0]}?" if near else ": remove it")
        )
    return found


# -- values --------------------------------------------------------------------------------------------------------


def _plain(kind: Any) -> Any:
    """The type without `| None` and Annotated."""
    if typing.get_origin(kind) is Annotated:
        return _plain(kind.__origin__)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _plain(next(each for each in typing.get_args(kind) if each is not type(None)))
    return kind


def _optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and type(None) in typing.get_args(kind)


def _choices(kind: Any) -> list[str]:
    if typing.get_origin(kind) is typing.Literal:
        return [str(each) for each in typing.get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(each.value) for each in kind]
    return []


def _convert(kind: Any, value: Any, *, seconds: bool) -> Any:
    if _optional(kind) and value in (None, ""):
        return None
    kind = _plain(kind)
    if typing.get_origin(kind) is list:
        items = value if isinstance(value, list) else str(value).split(",")
        parts = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
        split = [part.strip() if isinstance(part, str) else part for part in parts]
        (inner,) = typing.get_args(kind)
        return [_convert(inner, item, seconds=seconds) for item in split if item != ""]
    choices = _choices(kind)
    if choices:
        return _choice(kind, choices, value)
    if seconds:
        return duration(str(value))
    converter = _CONVERTERS.get(kind)
    if converter is None:
        raise TypeError(f"settings cannot hold a {kind}")
    return converter(value)


def _choice(kind: Any, choices: list[str], value: Any) -> Any:
    if str(value) not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    if typing.get_origin(kind) is typing.Literal:
        return next(each for each in typing.get_args(kind) if str(each) == str(value))
    return next(each for each in kind if str(each.value) == str(value))


def duration(text: str) -> float:
    """Seconds of "90", "1m30s", "500ms".

    Raises:
        ValueError: it is no duration.
    """
    wanted = 'is no duration: write "90s", "1m30s" or "500ms"'
    try:
        plain = float(text)
    except ValueError:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text.strip():
            raise ValueError(f"{text!r} {wanted}") from None
        plain = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= plain < float("inf"):
        raise ValueError(f"{text!r} {wanted}")
    return plain


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{value!r} is neither true nor false")
    return word in _TRUE


def _number(kind: Callable[[Any], Any], wanted: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            if isinstance(value, bool) or (kind is int and isinstance(value, float)):
                raise ValueError
            return kind(value)
        except (ValueError, TypeError):
            raise ValueError(f"{value!r} is {wanted}") from None

    return convert


def _string(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError(f"expected one text, got {type(value).__name__}")
    return str(value)


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or str(value) == "":
        raise ValueError(f"{value!r} is no path")
    return Path(value).expanduser()


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _number(int, "no whole number"),
    float: _number(float, "no number"),
    str: _string,
    Path: _path,
}
