"""betterproto2 messages on the wire, through converters compiled from each message's descriptor.

betterproto2's own codec walks every message in Python; protobuf's C codec (upb) does the same an order of magnitude
faster. `codec` writes two functions per message class, between the dataclass and the upb message, and compiles them.

What holds for every message:
- Fields that this build does not know are dropped, not carried along.
- Enum numbers that this build does not know are kept as unnamed members of the enum; `unknown_enums` finds them.
- Timestamp becomes an aware UTC datetime and Duration a timedelta, both cut to whole microseconds towards zero.
"""

from __future__ import annotations

import functools
import keyword
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import betterproto2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError as _ProtobufDecodeError

from common.gen.google.protobuf import Duration, Timestamp
from common.gen.message_pool import default_message_pool

M = TypeVar("M", bound=betterproto2.Message)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_DURATION_SECONDS = 315_576_000_000  # google/protobuf/duration.proto: about 10,000 years


class DecodeError(ValueError):
    """The bytes are no message of this type."""


class EncodeError(ValueError):
    """A field holds what its type cannot carry: a number out of range, a lone surrogate, a naive datetime."""


@dataclass(frozen=True, slots=True)
class Codec(Generic[M]):
    """Both directions for one message class."""

    loads: Callable[[bytes], M]
    """Raises DecodeError."""
    dumps: Callable[[M], bytes]
    """Raises EncodeError."""


@functools.cache
def codec(cls: type[M]) -> Codec[M]:
    """The compiled codec of a message class; the first call per class compiles it."""
    decode, encode, parse = _decoder(cls), _encoder(cls), _pb(cls).FromString
    name = descriptor(cls).full_name

    def loads(data: bytes) -> M:
        try:
            return decode(parse(data))  # type: ignore[no-any-return]  # compiled code has no types
        except (_ProtobufDecodeError, OverflowError, ValueError, RecursionError) as error:
            raise DecodeError(f"these {len(data)} bytes are no {name}: {error}") from error

    def dumps(message: M) -> bytes:
        try:
            return encode(message).SerializeToString()  # type: ignore[no-any-return]
        except (ValueError, OverflowError, RecursionError) as error:
            raise EncodeError(f"{name} cannot be sent: {error}") from error
        except (TypeError, AttributeError) as error:
            if not isinstance(message, cls):
                raise TypeError(f"expected a {name}, got {type(message).__name__}") from error
            raise EncodeError(f"{name} cannot be sent: a field has a value of the wrong type") from error

    return Codec(loads, dumps)


def descriptor(cls: type[betterproto2.Message]) -> Descriptor:
    """What the contract says of a message class."""
    return cls.DESCRIPTOR  # type: ignore[attr-defined]  # generated classes have it, betterproto2's base does not say so


def message_class(descriptor: Descriptor) -> type[betterproto2.Message]:
    """The dataclass that stands for a message type of the contract."""
    return default_message_pool.url_to_type[f"type.googleapis.com/{descriptor.full_name}"]


def fields_by_name(cls: type[betterproto2.Message]) -> dict[str, FieldDescriptor]:
    """Attribute name -> field descriptor; they differ where a field's name is no Python name."""
    names = _metadata(cls).field_name_by_number
    return {names[field.number]: field for field in descriptor(cls).fields}


def unknown_enums(message: betterproto2.Message) -> list[str]:
    """Paths of the fields whose enum number this build does not know: ["spec.disks[0].bus = 99"]."""
    return _enum_finder(type(message))(message)


# -- well-known types ----------------------------------------------------------------------------------------------


def _datetime_of(pb: Any) -> datetime:  # Any: a upb class made at run time
    return _EPOCH + timedelta(seconds=pb.seconds, microseconds=pb.nanos // 1000)


def _timestamp_of(pb_class: Any, value: datetime) -> Any:
    if value.tzinfo is None:
        raise ValueError("a point in time needs a time zone")
    seconds, micros = divmod((value - _EPOCH) // _MICROSECOND, 1_000_000)
    return pb_class(seconds=seconds, nanos=micros * 1000)


def _timedelta_of(pb: Any) -> timedelta:
    nanos = pb.nanos
    micros = nanos // 1000 if nanos >= 0 else -(-nanos // 1000)
    return timedelta(seconds=pb.seconds, microseconds=micros)


def _duration_of(pb_class: Any, value: timedelta) -> Any:
    micros = value // _MICROSECOND
    sign = -1 if micros < 0 else 1
    seconds, rest = divmod(abs(micros), 1_000_000)  # seconds and nanos of a Duration have the same sign
    if seconds > _MAX_DURATION_SECONDS:
        raise ValueError(f"a duration is at most {_MAX_DURATION_SECONDS} seconds long")
    return pb_class(seconds=sign * seconds, nanos=sign * rest * 1000)


# -- compiling -----------------------------------------------------------------------------------------------------


class _Members(dict[int, Any]):
    """Number -> enum member; unknown numbers make an unnamed member and are not stored: a peer picks them."""

    def __init__(self, enum: type[betterproto2.Enum]) -> None:
        super().__init__({int(member): member for member in enum})
        self._enum = enum

    def __missing__(self, number: int) -> Any:
        return self._enum(number)


def _later(
    scope: dict[str, Any], function: str, make: Callable[[Any], Callable[..., Any]], cls: Any
) -> Callable[..., Any]:
    """A converter that compiles itself at its first call and then takes its own place: messages may hold themselves."""

    def first(value: Any) -> Any:
        scope[function] = convert = make(cls)
        return convert(value)

    return first


def _metadata(cls: Any) -> Any:  # Any: betterproto2's class property confuses mypy
    return cls._betterproto


def _pb(cls: type[betterproto2.Message]) -> Any:
    return message_factory.GetMessageClass(descriptor(cls))


def _value_field(field: FieldDescriptor) -> FieldDescriptor:
    """What a list, a map or a plain field finally holds."""
    return field.message_type.fields_by_name["value"] if _is_map(field) else field


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _held_class(cls: type[betterproto2.Message], name: str, field: FieldDescriptor) -> Any:
    """Class of the field's values: a message, an enum, datetime, timedelta or a plain type."""
    return _metadata(cls).cls_by_field[f"{name}.value" if _is_map(field) else name]


def _converted(
    cls: type[betterproto2.Message],
    make: Callable[[Any], Callable[..., Any]],
    wkt: Callable[[FieldDescriptor], Callable[..., Any]],
    scope: dict[str, Any],
) -> Iterator[tuple[str, FieldDescriptor, str]]:
    """Per field: attribute name, descriptor, and a format string that converts one value ("{}" leaves it)."""
    for name, field in fields_by_name(cls).items():
        held = _value_field(field)
        function = f"c{field.number}"
        if held.message_type is not None:
            full_name = held.message_type.full_name
            if full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
                scope[function] = wkt(held)
            else:
                scope[function] = _later(scope, function, make, _held_class(cls, name, field))
            yield name, field, function + "({})"
        elif held.enum_type is not None and make is _decoder:
            scope[function] = _Members(_held_class(cls, name, field))
            yield name, field, function + "[{}]"
        else:
            yield name, field, "{}"


def _compile(source: str, scope: dict[str, Any], cls: type[betterproto2.Message]) -> Callable[[Any], Any]:
    code = compile(source, f"<wire {cls.__name__}>", "exec")
    exec(code, scope)  # noqa: S102  # the source is built from descriptors of this very build, never from input
    function: Callable[[Any], Any] = scope["convert"]
    return function


@functools.cache
def _decoder(cls: type[betterproto2.Message]) -> Callable[[Any], Any]:
    def wkt(held: FieldDescriptor) -> Callable[[Any], Any]:
        return _datetime_of if held.message_type.name == "Timestamp" else _timedelta_of

    scope: dict[str, Any] = {"C": cls}
    lines = []
    for name, field, convert in _converted(cls, _decoder, wkt, scope):
        source = f"getattr(m, {field.name!r})" if keyword.iskeyword(field.name) else f"m.{field.name}"
        if _is_map(field):
            value = (
                f"{{k: {convert.format('v')} for k, v in {source}.items()}}" if convert != "{}" else f"dict({source})"
            )
            if _value_field(field).message_type is not None:  # upb's map of messages has no items() of plain values
                value = f"{{k: {convert.format(source + '[k]')} for k in {source}}}"
        elif field.is_repeated:
            value = f"[{convert.format('x')} for x in {source}]" if convert != "{}" else f"list({source})"
        elif field.has_presence:
            value = f"{convert.format(source)} if m.HasField({field.name!r}) else None"
        else:
            value = convert.format(source)
        lines.append(f"    {name}={value},")
    return _compile("def convert(m):\n  return C(\n" + "\n".join(lines) + "\n  )", scope, cls)


@functools.cache
def _encoder(cls: type[betterproto2.Message]) -> Callable[[Any], Any]:
    def wkt(held: FieldDescriptor) -> Callable[[Any], Any]:
        pb_class = message_factory.GetMessageClass(held.message_type)
        return functools.partial(_timestamp_of if held.message_type.name == "Timestamp" else _duration_of, pb_class)

    scope: dict[str, Any] = {"P": _pb(cls)}
    lines = []
    for name, field, convert in _converted(cls, _encoder, wkt, scope):
        source = f"o.{name}"
        if convert == "{}":
            value = source  # None means absent to upb's constructor too
        elif _is_map(field):
            value = f"{{k: {convert.format('v')} for k, v in {source}.items()}}"
        elif field.is_repeated:
            value = f"[{convert.format('x')} for x in {source}]"
        else:
            value = f"None if {source} is None else {convert.format(source)}"
        lines.append(
            f"    **{{{field.name!r}: {value}}}," if keyword.iskeyword(field.name) else f"    {field.name}={value},"
        )
    return _compile("def convert(o):\n  return P(\n" + "\n".join(lines) + "\n  )", scope, cls)


# -- unknown enum numbers --------------------------------------------------------------------------------------------


@functools.cache
def _enum_finder(cls: type[betterproto2.Message]) -> Callable[[betterproto2.Message], list[str]]:
    walked = [(name, field) for name, field in fields_by_name(cls).items() if _may_hold_enum(_value_field(field))]

    def find(message: betterproto2.Message) -> list[str]:
        found: list[str] = []
        for name, field in walked:
            for suffix, value in _values(getattr(message, name), field):
                if isinstance(value, betterproto2.Message):
                    found += [f"{name}{suffix}.{path}" for path in unknown_enums(value)]
                elif value not in known[name]:
                    found.append(f"{name}{suffix} = {int(value)}")
        return found

    known = {
        name: _value_field(field).enum_type.values_by_number if _value_field(field).enum_type else {}
        for name, field in walked
    }
    return find


def _values(value: Any, field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if _is_map(field):
        yield from ((f"[{key}]", item) for key, item in value.items())
    elif field.is_repeated:
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    else:
        yield "", value


def _may_hold_enum(field: FieldDescriptor, seen: frozenset[str] = frozenset()) -> bool:
    if field.enum_type is not None:
        return True
    inner = field.message_type
    if inner is None or inner.full_name in seen:
        return False
    seen |= {inner.full_name}
    return any(_may_hold_enum(each, seen) for each in inner.fields)


_WELL_KNOWN = (Duration, Timestamp)  # imported so that the pool knows the files that the contract's files depend on
