"""The REST interface of the simulated vCenter: sessions, tags, content library, storage policies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyVmomi import SoapStubAdapter, VmomiSupport, pbm, vim, vmodl

from simulators.clients import MIB, disks, machine, make, outcome, si, with_disks
from simulators.rest_client import Refused, Rest
from simulators.test_vcsim_leases import exported
from simulators.vcsim import Vcsim, vcsim

__all__ = ["si", "vcsim"]

pytestmark = pytest.mark.real

OLD = "/rest/com/vmware/cis/tagging"


@pytest.fixture
def rest(vcsim: Vcsim) -> Iterator[Rest]:
    yield Rest(vcsim)
    vcsim.control("reset")


def category(rest: Rest, name: str, cardinality: str = "MULTIPLE", types: tuple[str, ...] = ()) -> str:
    body = {"name": name, "description": "", "cardinality": cardinality, "associable_types": list(types)}
    return rest("POST", "cis/tagging/category", body)


def tag(rest: Rest, category: str, name: str) -> str:
    return rest("POST", "cis/tagging/tag", {"category_id": category, "name": name, "description": ""})


def attach(rest: Rest, tag: str, vm: vim.VirtualMachine, action: str = "attach") -> None:
    body = {"object_id": {"type": "VirtualMachine", "id": vm._moId}}
    rest("POST", f"cis/tagging/tag-association/{tag}?action={action}", body)


def test_sessions_of_both_dialects(vcsim, rest):
    assert rest("GET", "session")["user"] == vcsim.user
    old = Rest(vcsim, api=False)
    assert old("GET", f"{OLD}/category") == []
    vcsim.control("sessions/drop")
    for session in (rest, old):
        with pytest.raises(Refused, match="401 unauthenticated"):
            session("GET", "cis/tagging/category")
    again = Rest(vcsim)
    again("DELETE", "session")
    with pytest.raises(Refused, match="401"):
        again("GET", "cis/tagging/category")


def test_a_server_without_the_new_dialect(vcsim):
    vcsim.control("behaviours", api=False)
    with pytest.raises(Refused, match=r"404 $"):
        Rest(vcsim)
    Rest(vcsim, api=False)
    vcsim.control("reset")


def test_tags_by_either_dialect(vcsim, si, rest):
    old = Rest(vcsim, api=False)
    owner = category(rest, "owner")
    assert rest("GET", f"cis/tagging/category/{owner}")["name"] == "owner"
    rest("PATCH", f"cis/tagging/category/{owner}", {"description": "who"})
    assert old("GET", f"{OLD}/category/id:{owner}")["description"] == "who"
    with pytest.raises(Refused, match="400 already_exists"):
        category(rest, "owner")
    ada, bob = tag(rest, owner, "ada"), tag(rest, owner, "bob")
    listed = rest("POST", "cis/tagging/tag?action=list-tags-for-category", {"category_id": owner})
    assert sorted(listed) == sorted([ada, bob])
    assert sorted(old("POST", f"{OLD}/tag/id:{owner}?~action=list-tags-for-category")) == sorted([ada, bob])
    vm = make(si, "tagged")
    attach(rest, ada, vm)
    attach(rest, bob, vm)
    reference = {"type": "VirtualMachine", "id": vm._moId}
    body = {"object_id": reference}
    assert sorted(rest("POST", "cis/tagging/tag-association?action=list-attached-tags", body)) == sorted([ada, bob])
    assert rest("POST", f"cis/tagging/tag-association/{ada}?action=list-attached-objects") == [reference]
    assert old("POST", f"{OLD}/tag-association/id:{ada}?~action=list-attached-objects") == [reference]
    attach(rest, ada, vm, "detach")
    on = rest("POST", "cis/tagging/tag-association?action=list-attached-tags-on-objects", {"object_ids": [reference]})
    assert on == [{"object_id": reference, "tag_ids": [bob]}]
    outcome(vm.Destroy_Task())
    assert rest("POST", f"cis/tagging/tag-association/{bob}?action=list-attached-objects") == []
    rest("DELETE", f"cis/tagging/tag/{bob}")
    with pytest.raises(Refused, match="404 not_found"):
        rest("GET", f"cis/tagging/tag/{bob}")
    rest("DELETE", f"cis/tagging/category/{owner}")


def test_one_tag_of_a_single_category(si, rest):
    vm, other = make(si, "single"), machine(si, "DC0_H0_VM0")
    tier = category(rest, "tier", "SINGLE", ("VirtualMachine",))
    gold, lead = tag(rest, tier, "gold"), tag(rest, tier, "lead")
    attach(rest, gold, vm)
    attach(rest, gold, vm)
    with pytest.raises(Refused, match="400 invalid_argument"):
        attach(rest, lead, vm)
    attach(rest, lead, other)
    body = {"object_id": {"type": "VirtualMachine", "id": vm._moId}, "tag_ids": [lead]}
    path = "cis/tagging/tag-association?action=attach-multiple-tags-to-object"
    assert rest("POST", path, body)["success"] is False
    host = {"object_id": {"type": "HostSystem", "id": vm.runtime.host._moId}}
    with pytest.raises(Refused, match="400 invalid_argument"):
        rest("POST", f"cis/tagging/tag-association/{gold}?action=attach", host)
    gone = {"object_id": {"type": "VirtualMachine", "id": "vm-0"}}
    with pytest.raises(Refused, match="403 unauthorized"):
        rest("POST", f"cis/tagging/tag-association/{gold}?action=attach", gone)
    with pytest.raises(Refused, match="404 not_found"):
        attach(rest, "urn:vmomi:InventoryServiceTag:none:GLOBAL", vm)
    detach = "cis/tagging/tag-association?action=detach-multiple-tags-from-object"
    assert rest("POST", detach, {**body, "tag_ids": [gold]})["success"] is True
    assert rest("POST", path, body)["success"] is True


def test_faults_on_demand(vcsim, rest):
    vcsim.control("rest/faults", path="cis/tagging/tag", status=403, type="unauthorized")
    with pytest.raises(Refused, match="403 unauthorized"):
        rest("GET", "cis/tagging/tag")
    rest("GET", "cis/tagging/tag")
    assert vcsim.requests()["GET cis/tagging/tag"] == 2


OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References><File ovf:href="disk.vmdk" ovf:id="file1" ovf:size="1"/></References>
<DiskSection><Info>disks</Info><Disk ovf:capacity="2097152" ovf:capacityAllocationUnits="byte" ovf:diskId="d1"
 ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
</DiskSection>
<VirtualSystem ovf:id="item"><Info>machine</Info><Name>item</Name>
<OperatingSystemSection ovf:id="100"><Info>guest</Info></OperatingSystemSection>
<VirtualHardwareSection><Info>hardware</Info>
<System><vssd:ElementName>f</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
<vssd:VirtualSystemIdentifier>item</vssd:VirtualSystemIdentifier><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
</System>
<Item><rasd:ElementName>cpu</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
<rasd:VirtualQuantity>1</rasd:VirtualQuantity></Item>
<Item><rasd:ElementName>memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID>
<rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>64</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>scsi</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID>
<rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
<Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>Hard disk 1</rasd:ElementName>
<rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID><rasd:Parent>3</rasd:Parent>
<rasd:ResourceType>17</rasd:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"""


def library(si: vim.ServiceInstance, rest: Rest, name: str) -> str:
    datastore = si.content.rootFolder.childEntity[0].datastore[0]
    backing = [{"type": "DATASTORE", "datastore_id": datastore._moId}]
    body = {"name": name, "type": "LOCAL", "storage_backings": backing}
    return rest("POST", "content/local-library", body)


def filled(rest: Rest, library: str, name: str, files: dict[str, bytes]) -> str:
    item = rest("POST", "content/library/item", {"library_id": library, "name": name, "type": "ovf"})
    session = rest("POST", "content/library/item/update-session", {"library_item_id": item})
    sessions = f"content/library/item/update-session/{session}"
    for file, content in files.items():
        told = rest("POST", f"{sessions}/file", {"name": file, "source_type": "PUSH", "size": len(content)})
        rest.upload(told["upload_endpoint"]["uri"], content)
    assert {file["name"] for file in rest("GET", f"{sessions}/file")} == set(files)
    rest("POST", f"{sessions}?action=complete")
    assert rest("GET", sessions)["state"] in ("ACTIVE", "DONE")
    return item


def deploy(si: vim.ServiceInstance, rest: Rest, item: str, name: str) -> dict[str, object]:
    pool = si.content.rootFolder.childEntity[0].hostFolder.childEntity[0].resourcePool
    body = {
        "target": {"resource_pool_id": pool._moId},
        "deployment_spec": {"name": name, "accept_all_EULA": True},
    }
    return rest("POST", f"vcenter/ovf/library-item/{item}?action=deploy", body)


def test_an_ovf_of_the_library_is_deployed_with_its_disks(si, vcsim, rest):
    stream = exported(si, vcsim, "published")
    own = library(si, rest, "images")
    item = filled(rest, own, "linux", {"item.ovf": OVF.encode(), "disk.vmdk": stream})
    assert rest("POST", "content/library?action=find", {"name": "images"}) == [own]
    assert rest("POST", "content/library/item?action=find", {"library_id": own, "name": "linux"}) == [item]
    assert rest("GET", f"content/library/item?library_id={own}") == [item]
    assert rest("GET", f"content/library/item/{item}")["type"] == "ovf"
    assert rest("GET", f"content/library/{own}")["name"] == "images"
    assert {file["name"] for file in rest("GET", f"content/library/item/{item}/file")} == {"item.ovf", "disk.vmdk"}
    told = deploy(si, rest, item, "from-library")
    assert told["succeeded"] is True, str(told)
    vm = vim.VirtualMachine(told["resource_id"]["id"], si._stub)
    assert (vm.name, disks(vm.config)[0].capacityInBytes) == ("from-library", 2 * MIB)
    assert vcsim.read_disk("from-library", 1000, 5) == b"start"
    assert deploy(si, rest, item, "from-library")["succeeded"] is False
    rest("DELETE", f"content/library/item/{item}")
    with pytest.raises(Refused, match="404 not_found"):
        rest("GET", f"content/library/item/{item}")


def test_a_subscribed_librarys_item_is_deployed(si, vcsim, rest):
    stream = exported(si, vcsim, "origin-of-all")
    datastore = si.content.rootFolder.childEntity[0].datastore[0]
    backing = [{"type": "DATASTORE", "datastore_id": datastore._moId}]
    publication = {"published": True, "authentication_method": "NONE", "persist_json_enabled": False}
    body = {"name": "public", "type": "LOCAL", "storage_backings": backing, "publish_info": publication}
    published = rest("POST", "content/local-library", body)
    item = filled(rest, published, "shared", {"item.ovf": OVF.encode(), "disk.vmdk": stream})
    url = rest("GET", f"content/local-library/{published}")["publish_info"]["publish_url"]
    subscription = {"subscription_url": url, "authentication_method": "NONE", "on_demand": False}
    body = {"name": "mirror", "type": "SUBSCRIBED", "storage_backings": backing, "subscription_info": subscription}
    mirror = rest("POST", "content/subscribed-library", body)
    rest("POST", f"content/subscribed-library/{mirror}?action=sync")
    (copy,) = rest("GET", f"content/library/item?library_id={mirror}")
    assert rest("GET", f"content/library/item/{copy}")["source_id"] == item
    assert deploy(si, rest, copy, "from-mirror")["succeeded"] is True
    assert vcsim.read_disk("from-mirror", 1000, 5) == b"start"


def test_a_template_of_the_library_becomes_a_machine(si, vcsim, rest):
    source = make(si, "to-capture", deviceChange=with_disks(MIB))
    vcsim.write_disk("to-capture", 0, b"golden")
    own = library(si, rest, "templates")
    datacenter = si.content.rootFolder.childEntity[0]
    placement = {"folder": datacenter.vmFolder._moId, "resource_pool": source.resourcePool._moId}
    capture = {"name": "golden", "library": own, "source_vm": source._moId, "placement": placement}
    item = rest("POST", "vcenter/vm-template/library-items", capture)
    body = {
        "name": "from-template",
        "placement": {"cluster": datacenter.hostFolder.childEntity[1]._moId},
        "powered_on": True,
        "hardware_customization": {"cpu_update": {"num_cpus": 2}, "memory_update": {"memory": 128}},
    }
    vm = vim.VirtualMachine(rest("POST", f"vcenter/vm-template/library-items/{item}?action=deploy", body), si._stub)
    assert (vm.config.template, vm.runtime.powerState, vm.config.hardware.numCPU) == (False, "poweredOn", 2)
    assert vcsim.read_disk("from-template", 0, 6) == b"golden"


@pytest.fixture
def profiles(vcsim: Vcsim, si: vim.ServiceInstance) -> Iterator[pbm.profile.ProfileManager]:
    token = si._stub.cookie.partition("=")[2].partition(";")[0].strip('"')
    VmomiSupport.GetRequestContext()["vcSessionCookie"] = token
    stub = SoapStubAdapter(
        host=vcsim.host,
        port=vcsim.port,
        path="/pbm/sdk",
        version="pbm.version.version1",
        sslContext=si._stub.schemeArgs["context"],
    )
    yield pbm.ServiceInstance("ServiceInstance", stub).RetrieveContent().profileManager
    stub.DropConnections()


def test_storage_policies(si, vcsim, rest):
    found = {policy["name"]: policy["policy"] for policy in rest("GET", "vcenter/storage/policies")}
    thin = found["vSAN Default Storage Policy"]
    wanted = [vim.vm.DefinedProfileSpec(profileId=thin)]
    changes = with_disks(MIB)
    changes[1].profile = wanted
    vm = make(si, "policed", deviceChange=changes, vmProfile=wanted)
    key = disks(vm.config)[0].key
    assert rest("GET", f"vcenter/vm/{vm._moId}/storage/policy") == {"vm_home": thin, "disks": {str(key): thin}}
    other = next(id for id in found.values() if id != thin)
    outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(vmProfile=[vim.vm.DefinedProfileSpec(profileId=other)])))
    assert rest("GET", f"vcenter/vm/{vm._moId}/storage/policy")["vm_home"] == other
    with pytest.raises(vmodl.fault.InvalidArgument):
        outcome(vm.ReconfigVM_Task(vim.vm.ConfigSpec(vmProfile=[vim.vm.DefinedProfileSpec(profileId="none")])))
    with pytest.raises(Refused, match="404 not_found"):
        rest("GET", "vcenter/vm/vm-0/storage/policy")


def test_policies_over_soap(si, rest, profiles):
    thin = rest("GET", "vcenter/storage/policies")[0]["policy"]
    vm = make(si, "policed-too", vmProfile=[vim.vm.DefinedProfileSpec(profileId=thin)])
    kind = pbm.profile.ResourceType(resourceType="STORAGE")
    assert thin in [profile.uniqueId for profile in profiles.PbmQueryProfile(kind)]
    entity = pbm.ServerObjectRef(objectType="virtualMachine", key=vm._moId)
    assert [profile.uniqueId for profile in profiles.PbmQueryAssociatedProfile(entity)] == [thin]
