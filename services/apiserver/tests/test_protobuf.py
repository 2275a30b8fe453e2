"""Protobuf bodies, which kubectl sends for built-in kinds."""

from __future__ import annotations

import pytest
from apiserver import protobuf
from hypothesis import given
from hypothesis import strategies as st


def field(number: int, content: bytes | int) -> bytes:
    """Encode one field (lengths and numbers below 128 suffice here)."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def unknown(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return protobuf.MAGIC + field(1, meta) + field(2, raw) + field(3, b"") + field(4, b"")


def test_a_secret():
    meta = field(1, b"s") + field(2, b"") + field(8, b"") + field(11, field(1, b"k") + field(2, b"v"))
    raw = field(1, meta) + field(2, field(1, b"pw") + field(2, b"\x00\xff")) + field(3, b"Opaque") + field(5, 1)
    assert protobuf.decode(unknown("v1", "Secret", raw)) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "labels": {"k": "v"}},
        "data": {"pw": "AP8="},
        "type": "Opaque",
        "immutable": True,
    }


def test_times_and_unknown_fields():
    spec = field(1, b"me") + field(3, field(1, 10) + field(2, 2)) + field(15, b"later")
    made = protobuf.decode(unknown("coordination.k8s.io/v1", "Lease", field(2, spec)))
    assert made["spec"] == {"holderIdentity": "me", "acquireTime": "1970-01-01T00:00:10.000000Z"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        protobuf.MAGIC,
        protobuf.MAGIC + b"\x0a\xff",
        unknown("v1", "Pod", b""),
        unknown("v1", "Secret", b"\x0a\x7f"),
        unknown("v1", "Secret", field(1, 5)),
        unknown("v1", "Secret", field(3, b"\xff")),
        unknown("v1", "Secret", b"\x0b"),
    ],
)
def test_what_cannot_be_read(body):
    with pytest.raises(ValueError):
        protobuf.decode(body)


@given(st.binary(max_size=100))
def test_garbage_is_refused_and_nothing_worse(raw):
    for kind in ("Secret", "Event", "Namespace"):
        try:
            made = protobuf.decode(unknown("v1", kind, raw[:100]))
        except ValueError:
            continue
        assert made["kind"] == kind


async def test_over_http(api):
    body = unknown("v1", "ConfigMap", field(1, field(1, b"pb")) + field(2, field(1, b"a") + field(2, b"1")))
    reply = await api.call("POST", "/api/v1/namespaces/default/configmaps", body, kind=protobuf.MEDIA_TYPE)
    assert (reply.status, reply.json["data"]) == (201, {"a": "1"})
    broken = await api.call("POST", "/api/v1/namespaces/default/configmaps", body[:-3], kind=protobuf.MEDIA_TYPE)
    assert broken.status == 400
