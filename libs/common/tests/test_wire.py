"""What the compiled converters owe to protobuf."""

import functools
import importlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import betterproto2
import pytest
from common import v1, wire
from common.gen.message_pool import default_message_pool
from google.protobuf import duration_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONTRACT = sorted(
    (cls for url, cls in default_message_pool.url_to_type.items() if "/virtrigaud." in url),
    key=lambda cls: cls.__name__,
)

_SCALARS = {
    # betterproto2 drops a negative zero, which protobuf keeps, so the comparison leaves it out.
    F.TYPE_DOUBLE: st.floats(allow_nan=False).map(lambda x: x + 0.0),
    F.TYPE_FLOAT: st.floats(allow_nan=False, width=32).map(lambda x: x + 0.0),
    F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_SINT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_SFIXED64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_UINT64: st.integers(0, 2**64 - 1),
    F.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_SINT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_SFIXED32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    F.TYPE_FIXED32: st.integers(0, 2**32 - 1),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_STRING: st.text(max_size=8),
    F.TYPE_BYTES: st.binary(max_size=8),
}
# betterproto2's own Duration is wrong below zero, so the three-way comparison stays above; see the tests of durations.
_DURATIONS = st.timedeltas(timedelta(0), timedelta(days=3650))
_TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def values(cls, name: str, field: F, depth: int) -> st.SearchStrategy:
    entry = field.message_type is not None and field.message_type.GetOptions().map_entry
    held = field.message_type.fields_by_name["value"] if entry else field
    held_class = cls._betterproto.cls_by_field[f"{name}.value" if entry else name]
    if held.message_type is not None:
        known = {"google.protobuf.Duration": _DURATIONS, "google.protobuf.Timestamp": _TIMES}
        full_name = held.message_type.full_name
        one = known[full_name] if full_name in known else messages(held_class, depth - 1)
    elif held.enum_type is not None:
        one = st.one_of(st.sampled_from(list(held_class)), st.integers(1000, 2000).map(held_class))
    else:
        one = _SCALARS[held.type]
    if entry:
        return st.dictionaries(_SCALARS[field.message_type.fields_by_name["key"].type], one, max_size=2)
    if field.is_repeated:
        return st.lists(one, max_size=2)
    return st.none() | one if field.has_presence else one


@functools.cache
def messages(cls, depth: int = 5) -> st.SearchStrategy:
    if depth == 0:
        return st.builds(cls)
    fields = wire.fields_by_name(cls)

    @st.composite
    def build(draw):
        chosen = {}
        for name, field in fields.items():
            oneof = field.containing_oneof
            if oneof is None or len(oneof.fields) == 1:
                chosen[name] = draw(values(cls, name, field, depth))
        for oneof in cls.DESCRIPTOR.oneofs:
            members = [name for name, field in fields.items() if field in oneof.fields]
            if len(members) > 1:
                name = draw(st.sampled_from([None, *members]))
                if name is not None:
                    chosen[name] = draw(values(cls, name, fields[name], depth))
        return cls(**chosen)

    return build()


def assert_three_ways(message: betterproto2.Message) -> None:
    """Our converters, betterproto2's own codec and protobuf itself agree in every direction."""
    cls = type(message)
    codec, pb = wire.codec(cls), message_factory.GetMessageClass(cls.DESCRIPTOR)
    ours, theirs = codec.dumps(message), bytes(message)
    assert pb.FromString(ours) == pb.FromString(theirs)
    assert codec.loads(ours) == codec.loads(theirs) == message
    assert cls.parse(ours) == message


@pytest.mark.parametrize("cls", CONTRACT, ids=lambda cls: cls.__name__)
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_message_of_the_contract_round_trips(cls, data):
    """Whatever a service says arrives as it was said, and any gRPC client can say and read it."""
    assert_three_ways(data.draw(messages(cls)))


def test_the_contract_is_in_the_pool():
    """An empty parametrisation would prove nothing."""
    assert len(CONTRACT) > 90
    assert v1.MachineSpec in CONTRACT


@given(st.timedeltas(timedelta(days=-3_650_000), timedelta(days=3_650_000)))
def test_durations_agree_with_protobuf_below_zero_and_below_a_second(duration):
    """A negative timeout must not arrive as a positive one."""
    expected = duration_pb2.Duration()
    expected.FromTimedelta(duration)
    codec = wire.codec(v1.PowerSpec)
    pb = message_factory.GetMessageClass(v1.PowerSpec.DESCRIPTOR)
    sent = pb.FromString(codec.dumps(v1.PowerSpec(graceful_timeout=duration))).graceful_timeout
    assert (sent.seconds, sent.nanos) == (expected.seconds, expected.nanos)
    assert codec.loads(codec.dumps(v1.PowerSpec(graceful_timeout=duration))).graceful_timeout == duration


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_agree_with_protobuf(moment):
    """From year 1 to 9999, to the microsecond."""
    expected = timestamp_pb2.Timestamp()
    expected.FromDatetime(moment)
    codec = wire.codec(v1.Operation)
    pb = message_factory.GetMessageClass(v1.Operation.DESCRIPTOR)
    data = codec.dumps(v1.Operation(start_time=moment))
    sent = pb.FromString(data).start_time
    assert (sent.seconds, sent.nanos) == (expected.seconds, expected.nanos)
    assert codec.loads(data).start_time == moment


def test_times_in_another_zone_are_the_same_moment():
    """People's zones do not shift what is stored."""
    codec = wire.codec(v1.Operation)
    local = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert codec.loads(codec.dumps(v1.Operation(start_time=local))).start_time == datetime(2026, 7, 1, 10, tzinfo=UTC)


def test_nanoseconds_are_cut_towards_zero():
    """Python knows no nanoseconds; a duration must not grow by rounding."""
    pb = message_factory.GetMessageClass(v1.PowerSpec.DESCRIPTOR)
    for nanos, micros in ((1_999, 1), (-1_999, -1), (999, 0), (-999, 0)):
        message = pb()
        message.graceful_timeout.nanos = nanos
        read = wire.codec(v1.PowerSpec).loads(message.SerializeToString())
        assert read.graceful_timeout == timedelta(microseconds=micros)


def test_absent_and_empty_differ_where_the_contract_says_so():
    """`optional` and message fields keep their presence; plain scalars have none."""
    codec = wire.codec(v1.GuestAddressing)
    assert codec.loads(codec.dumps(v1.GuestAddressing())).dhcp4 is None
    assert codec.loads(codec.dumps(v1.GuestAddressing(dhcp4=False))).dhcp4 is False
    spec = wire.codec(v1.MachineSpec)
    assert spec.loads(spec.dumps(v1.MachineSpec(cpu=v1.CpuSpec()))).cpu == v1.CpuSpec()
    assert spec.loads(spec.dumps(v1.MachineSpec())).cpu is None


def test_an_unknown_enum_number_is_kept_and_found():
    """A newer caller's value must be refused, so it has to be seen; and an answer's must be readable."""
    spec = v1.MachineSpec(
        power=v1.PowerSpec(state=v1.PowerState(77)),
        disks=[v1.DiskSpec(bus=v1.DiskBus.SATA), v1.DiskSpec(bus=v1.DiskBus(99))],
    )
    request = v1.ApplyMachineRequest(spec=spec, restart_policy=v1.RestartPolicy.ALLOWED)
    read = wire.codec(v1.ApplyMachineRequest).loads(wire.codec(v1.ApplyMachineRequest).dumps(request))
    assert read == request
    assert wire.unknown_enums(read) == ["spec.disks[1].bus = 99", "spec.power.state = 77"]
    assert wire.unknown_enums(v1.Capabilities(firmware=[v1.FirmwareType.UEFI, v1.FirmwareType(9)])) == [
        "firmware[1] = 9"
    ]
    assert wire.unknown_enums(v1.MachineSpec(power=v1.PowerSpec(state=v1.PowerState.ON))) == []


def test_unknown_fields_are_dropped():
    """Stated in the module: nobody shall rely on their passing through."""
    known = wire.codec(v1.GetMachineRequest).dumps(v1.GetMachineRequest(uid="u"))
    read = wire.codec(v1.GetMachineRequest).loads(known + b"\xfa\x3e\x03new")  # field 1007, three bytes
    assert wire.codec(v1.GetMachineRequest).dumps(read) == known


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (v1.GetMachineRequest, b"\x0a\xff"),
        (v1.GetMachineRequest, b"\x0a\x02\xff\xfe"),  # no UTF-8
        (v1.Operation, b"\x42\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),  # start_time beyond every calendar
        (v1.PowerSpec, b"\x1a\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),  # a duration of 2^63 seconds
    ],
)
def test_hostile_bytes_are_a_decode_error(cls, data):
    """A peer's rubbish ends in one exception that names the type."""
    with pytest.raises(wire.DecodeError, match=cls.__name__):
        wire.codec(cls).loads(data)


@pytest.mark.parametrize(
    "message",
    [
        v1.GetMachineRequest(uid="lone \ud800 surrogate"),
        v1.CpuSpec(count=-1),
        v1.CpuSpec(count=2**32),
        v1.Operation(start_time=datetime(2026, 1, 1)),
        v1.PowerSpec(graceful_timeout=timedelta.max),
        v1.GetMachineRequest(uid=5),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_sent_is_an_encode_error(message):
    """And never a silently different value."""
    with pytest.raises(wire.EncodeError, match=type(message).__name__):
        wire.codec(type(message)).dumps(message)


def test_an_encode_error_does_not_quote_the_value():
    """The field may be a secret."""
    with pytest.raises(wire.EncodeError) as caught:
        wire.codec(v1.BootData).dumps(v1.BootData(user_data="hunter2 \ud800"))
    assert "hunter2" not in str(caught.value)


def test_a_message_of_another_type_is_a_type_error():
    with pytest.raises(TypeError, match=r"expected a virtrigaud\.provider\.v1\.CpuSpec, got MemorySpec"):
        wire.codec(v1.CpuSpec).dumps(v1.MemorySpec())


PROTO = """
syntax = "proto3";
package sample;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; COLOUR_NEGATIVE = -3; }
message Tree {
  string name = 1;
  repeated Tree children = 2;
  Tree parent = 3;
  map<string, Tree> named = 4;
  map<int32, Colour> colours = 5;
  map<bool, bytes> blobs = 6;
  map<string, google.protobuf.Duration> delays = 7;
  repeated google.protobuf.Timestamp times = 8;
  repeated Colour palette = 9;
  optional Colour favourite = 10;
  oneof choice {
    Colour picked = 11; Tree grafted = 12; string text = 13; bytes raw = 14; google.protobuf.Duration wait = 15;
  }
  double f1 = 20; float f2 = 21; int32 f3 = 22; int64 f4 = 23; uint32 f5 = 24; uint64 f6 = 25; sint32 f7 = 26;
  sint64 f8 = 27; fixed32 f9 = 28; fixed64 f10 = 29; sfixed32 f11 = 30; sfixed64 f12 = 31; bool f13 = 32;
  optional string from = 40;
  string class = 41;
  repeated string import = 42;
}
"""


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A message with everything that the contract might use one day, generated as the contract is."""
    root = tmp_path_factory.mktemp("sample")
    package = root / "sample_generated"
    package.mkdir()
    (root / "sample.proto").write_text(PROTO)
    tools = Path(sys.executable).parent
    options = ["client_generation=none", "server_generation=none", "google_protobuf_descriptors"]
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{root}"),
            f"--plugin={tools / 'protoc-gen-python_betterproto2'}",
            f"--python_betterproto2_out={package}",
            *(f"--python_betterproto2_opt={option}" for option in options),
            str(root / "sample.proto"),
        ],
        check=True,
        env={"PATH": f"{tools}:/usr/bin:/bin"},
    )
    sys.path.insert(0, str(root))
    yield importlib.import_module("sample_generated.sample").Tree
    sys.path.remove(str(root))


def test_everything_that_a_contract_may_use_round_trips(tree):
    """Maps of messages and enums, recursion, every scalar, oneofs of every kind, names that are Python keywords."""

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(messages(tree, 2))
    def check(message):
        assert_three_ways(message)

    check()


def test_a_message_that_holds_itself_without_end_is_refused(tree):
    """Depth is an attacker's choice; it ends in an error and not in a crash."""
    deep = tree()
    for _ in range(3000):
        deep = tree(parent=deep)
    with pytest.raises(wire.EncodeError):
        wire.codec(tree).dumps(deep)
    nested = b""
    for _ in range(300):
        nested = b"\x1a" + _varint(len(nested)) + nested
    with pytest.raises(wire.DecodeError):
        wire.codec(tree).loads(nested)


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded, number = encoded + bytes([number & 127 | 128]), number >> 7
    return encoded + bytes([number])
