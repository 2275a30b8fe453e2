"""The stamp: what comes out is what went in, and nothing that others wrote is taken for one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from common import v1
from hypothesis import given
from hypothesis import strategies as st
from provider_vsphere.stamps import stamp
from provider_vsphere.stamps.stamp import DiskStamp, NicStamp, Stamp

IDENTITY = v1.MachineIdentity(
    uid="0a6b5d6e-3c1c-4a53-9d3e-0000000000a1", namespace="lab", name="web", owner="installation"
)


@given(
    st.lists(st.builds(DiskStamp, name=st.text(), slot=st.text())),
    st.lists(st.builds(NicStamp, name=st.text(), mac=st.text())),
    st.dictionaries(st.text(), st.text()),
)
def test_it_is_read_as_it_was_written(disks: list[DiskStamp], nics: list[NicStamp], settings: dict[str, str]) -> None:
    record = replace(stamp.of(IDENTITY, 1), disks=tuple(disks), nics=tuple(nics), settings=settings)
    assert stamp.read(record.text()) == record
    assert record.identity() == IDENTITY


@pytest.mark.parametrize(
    "text", [None, "", "{}", "[]", "nonsense", '{"uid": 1}', '{"uid":"u","namespace":"n","name":"m","owner":""}']
)
def test_what_others_wrote_is_no_stamp(text: str | None) -> None:
    assert stamp.read(text) is None


def test_a_replaced_record_keeps_its_place_because_the_first_disk_is_booted_from() -> None:
    record = Stamp("u", "n", "m", "o")
    for name in ("root", "data"):
        record = record.with_disk(DiskStamp(name, f"scsi0:{name}")).with_nic(NicStamp(name, "00:50:56:00:00:01"))
    record = record.with_disk(DiskStamp("root", "nvme0:0")).with_nic(NicStamp("root", "00:50:56:00:00:02"))
    assert [(disk.name, disk.slot) for disk in record.disks] == [("root", "nvme0:0"), ("data", "scsi0:data")]
    assert [nic.name for nic in record.nics] == ["root", "data"]
    assert [disk.name for disk in record.without_disk("root").disks] == ["data"]
    assert [nic.name for nic in record.without_nic("root").nics] == ["data"]
