"""What must hold whatever goes wrong, checked after every change of a hypervisor and every write to the API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from common import v1

from .hypervisor import Guest, Hypervisor, bytes_of
from .kubernetes import Cluster
from .people import CANARY, MACHINES, SPACE, User
from .process import here
from .schedule import Schedule

WINDOW_SECONDS = 90.0
"""What a status says must have been true at some time within so many seconds before."""

LEASE_SECONDS = 15.0
"""In so many seconds a leader has noticed that it leads no more."""


class Violation(AssertionError):
    """Something that must always hold did not."""


@dataclass
class Truth:
    """What was true of a machine from a time on."""

    at: float
    exists: bool
    power: str


class Invariants:
    """Watches a run; `broken` lists what did not hold."""

    def __init__(self, schedule: Schedule, cluster: Cluster, sites: Mapping[str, Hypervisor], user: User) -> None:
        self._schedule, self._cluster, self._sites, self._user = schedule, cluster, sites, user
        self._truth: dict[str, list[Truth]] = {}
        self._holder, self._held_since = "", 0.0
        self.broken: list[str] = []
        cluster.on_write = self._written
        for hypervisor in sites.values():
            hypervisor.on_change = self._changed

    def violate(self, what: str) -> None:
        """Something did not hold."""
        if what not in self.broken:
            self._schedule.say(f"BROKEN {what}")
            self.broken.append(what)

    # -- at every moment -----------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Whose guests and disks there are."""
        stamped: dict[str, list[Guest]] = {}
        for site, hypervisor in self._sites.items():
            for guest in hypervisor.guests.values():
                if guest.uid:
                    stamped.setdefault(guest.uid, []).append(guest)
            self._foreign(site, hypervisor)
            self._sound(site, hypervisor)
        for uid, guests in stamped.items():
            if len(guests) > 1:
                self.violate(f"{len(guests)} guests carry the stamp of {uid}")
        for uid, guest in self._user.kept.items():
            if not any(h.guests.get(guest.number) is guest for h in self._sites.values()) and not guest.taken:
                self.violate(f"the guest of {uid} was removed, though it was to be retained")
        now = asyncio.get_running_loop().time()
        for uid in self._truth.keys() | stamped.keys():
            found = next((guest for guest in stamped.get(uid, []) if guest.made), None)
            power = (found.machine.power.name or "").capitalize() if found is not None else ""
            known = self._truth.setdefault(uid, [Truth(0.0, False, "")])
            if (known[-1].exists, known[-1].power) != (found is not None, power):
                known.append(Truth(now, found is not None, power))

    def _foreign(self, site: str, hypervisor: Hypervisor) -> None:
        for number, before in hypervisor.foreign.items():
            there = hypervisor.guests.get(number)
            if there is None:
                self.violate(f"guest {site}/{number}, which is not ours, was removed")
            elif bytes_of(there.machine) != before:
                self.violate(f"guest {site}/{number}, which is not ours, was changed")
        for volume, what in hypervisor.precious.items():
            if volume not in hypervisor.volumes:
                self.violate(f"{what} was deleted: {volume}")

    def _sound(self, site: str, hypervisor: Hypervisor) -> None:
        """No machine stands on half an image."""
        for guest in hypervisor.guests.values():
            for disk in guest.machine.disks:
                if (volume := hypervisor.volumes.get(disk.id)) is not None and volume.half:
                    self.violate(f"guest {site}/{guest.number} stands on half an image")

    def _written(self, collection: str, body: dict[str, Any], encoded: bytes) -> None:
        plural = collection.rpartition("/")[2]
        if plural != "secrets" and CANARY.encode() in encoded:
            self.violate(f"a secret shows in {plural}/{body['metadata']['name']}")
        self._led(plural, body)
        # Of a status that is written, by us: what a person writes beside an old one claims nothing anew.
        if here() is not None and plural == "virtualmachines" and (status := body.get("status")):
            self._believable(body, status)
        if here() is not None and plural == "vmimages":
            self._ready_images(body)

    def _ready_images(self, image: dict[str, Any]) -> None:
        """An image that is told to be on a provider is there, and whole: nothing takes it away again."""
        for site in image.get("status", {}).get("availableOn", []):
            there = self._sites[site.rpartition("/")[2]].images.get(f"image-{image['metadata']['uid']}")
            if there is None or not there.made:
                self.violate(f"image {image['metadata']['name']} is told to be ready on {site}, and is not")

    def _led(self, plural: str, body: dict[str, Any]) -> None:
        """A controller that writes has the Lease, or had it a moment ago, or has slept and not noticed yet."""
        now, who = asyncio.get_running_loop().time(), here()
        if plural == "leases":
            if (holder := body["spec"]["holderIdentity"]) != self._holder:
                self._holder, self._held_since = holder, now
        elif who is not None and who.name.startswith("controller") and self._holder not in ("", str(who)):
            ought_to_know = min(now - self._held_since, now - who.since) > LEASE_SECONDS
            if ought_to_know:
                self.violate(f"{who} writes {plural}/{body['metadata']['name']}, and {self._holder} leads")

    def _believable(self, vm: dict[str, Any], status: dict[str, Any]) -> None:
        """A machine that is told to be Ready was there, and in this state, a moment ago."""
        ready = _condition(vm, "Ready")
        if ready.get("status") != "True":
            return
        since = asyncio.get_running_loop().time() - WINDOW_SECONDS
        known = self._truth.get(vm["metadata"]["uid"], [Truth(0.0, False, "")])
        recent = [known[-1], *(truth for truth, after in pairwise(known) if after.at > since)]
        told, name = status.get("powerState"), vm["metadata"]["name"]
        if not any(truth.exists and truth.power == told for truth in recent):
            self.violate(f"{name} is told to be Ready and {told}, which it was not for {WINDOW_SECONDS:g} s")

    # -- at the end ----------------------------------------------------------------------------------------------------

    def lacking(self) -> str:
        """The first thing that is not as the user wants it; empty when all is well."""
        uids = set()
        for name, spec in self._user.wanted.items():
            vm = self._cluster.get(MACHINES, SPACE, name)
            if vm is None:
                return f"{name} is gone from the API"
            uids.add(vm["metadata"]["uid"])
            if why := self._unlike(vm, spec):
                return f"{name}: {why}"
        for vm in self._cluster.of("virtualmachines"):
            if vm["metadata"]["name"] not in self._user.wanted:
                return f"{vm['metadata']['name']} is still in the API: {_condition(vm, 'DeleteBlocked')}"
        for provider in self._cluster.of("providers"):
            if (ready := _condition(provider, "Ready")).get("status") != "True":
                return f"Provider {provider['metadata']['name']} is not Ready: {ready}"
        if why := self._images_lacking():
            return why
        for hypervisor in self._sites.values():
            for guest in hypervisor.guests.values():
                if guest.uid and guest.uid not in uids:
                    return f"guest {guest.number} belongs to nobody"
                if not guest.uid and guest.number not in hypervisor.foreign.keys() | hypervisor.released:
                    return f"guest {guest.number}, without a stamp, belongs to nobody"
            living = uids | hypervisor.retained
            for volume in hypervisor.volumes.values():
                if volume.maker and volume.maker not in living:
                    return f"volume {volume.id} belongs to nobody"
        return ""

    def _images_lacking(self) -> str:
        """Where an image is wanted, it is whole and told to be; half of one may wait where nobody wants it."""
        wanted = {spec["providerRef"]["name"] for spec in self._user.wanted.values() if "imageRef" in spec}
        for site in sorted(wanted):
            for image in self._sites[site].images.values():
                if not image.made:
                    return f"image {image.id} is half made on {site}"
            for told in self._cluster.of("vmimages"):
                if f"{SPACE}/{site}" not in told.get("status", {}).get("availableOn", []):
                    return f"image {told['metadata']['name']} is not told to be on {site}: {told.get('status')}"
        return ""

    def _unlike(self, vm: dict[str, Any], spec: dict[str, Any]) -> str:
        hypervisor = self._sites[spec["providerRef"]["name"]]
        guests = [guest for guest in hypervisor.with_uid(vm["metadata"]["uid"]) if guest.made]
        if len(guests) != 1:
            return f"it has {len(guests)} guests; {_condition(vm, 'Ready')}"
        if why := _differs(spec, guests[0].machine):
            return f"{why}; {_condition(vm, 'Ready')}"
        ready = _condition(vm, "Ready")
        current = vm.get("status", {}).get("observedGeneration") == vm["metadata"]["generation"]
        return "" if ready.get("status") == "True" and current else f"it is not Ready: {ready}"


def _condition(vm: dict[str, Any], kind: str) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = vm.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def _differs(spec: dict[str, Any], machine: v1.Machine) -> str:
    wanted = {"On": v1.PowerState.ON, "Off": v1.PowerState.OFF}[spec["powerState"]]
    if machine.power is not wanted:
        return f"its power is {machine.power.name}, {wanted.name} is wanted"
    cpus = 1 if spec["classRef"]["name"] == "small" else 2
    if machine.cpu is None or machine.cpu.count != cpus:
        return f"it has other CPUs than the {cpus} wanted"
    names = {disk.name for disk in machine.disks}
    if names != {"root", *(disk["name"] for disk in spec["disks"])}:
        return f"it has disks {sorted(names)}"
    for disk in spec["disks"]:
        have = next(each for each in machine.disks if each.name == disk["name"])
        if have.size_bytes < disk["sizeGiB"] << 30:
            return f"disk {disk['name']} is too small"
    root = next(disk for disk in machine.disks if disk.name == "root")
    if "importedDisk" in spec and root.id != spec["importedDisk"]["diskID"]:
        return f"it starts from {root.id}"
    return "" if machine.tags == sorted(spec["tags"]) else f"its tags are {machine.tags}"
