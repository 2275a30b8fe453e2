"""Addresses merged from all who saw them, and nothing that a guest could make up."""

from __future__ import annotations

from provider_libvirt.guests import MOST_ADDRESSES, Sight, clean, merge, sights_of

A, B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"


def test_one_entry_for_each_address_with_all_who_saw_it() -> None:
    sights = [
        Sight("192.0.2.9", B, "lease"),
        Sight("2001:db8::1", A, "agent", "wlp3s0"),
        Sight("192.0.2.7", A, "agent", "wlp3s0"),
        Sight("192.0.2.7", A, "lease"),
        Sight("192.0.2.7", A, "arp"),
    ]
    for order in (sights, sights[::-1]):
        merged = merge(order, (A, B))
        assert [(a.address, a.mac, a.sources, a.interface) for a in merged] == [
            ("192.0.2.7", A, ["agent", "arp", "lease"], "wlp3s0"),
            ("2001:db8::1", A, ["agent"], "wlp3s0"),
            ("192.0.2.9", B, ["lease"], ""),
        ]


def test_arp_alone_puts_no_address_on_the_wrong_nic() -> None:
    """A guest with two NICs on one wire answers on either for both of its addresses."""
    sights = [
        Sight("192.0.2.7", A, "agent", "eth0"),
        Sight("192.0.2.7", B, "arp"),
        Sight("192.0.2.9", B, "arp"),
    ]
    for order in (sights, sights[::-1]):
        assert [(a.address, a.mac) for a in merge(order, (A, B))] == [("192.0.2.7", A), ("192.0.2.9", B)]


def test_a_neighbour_entry_alone_is_not_shown_once_the_agent_speaks() -> None:
    """It outlives the address, and a guest may have changed that."""
    seen = [Sight("192.0.2.200", A, "arp")]
    assert [a.address for a in merge(seen, (A,))] == ["192.0.2.200"]
    told = [*seen, Sight("192.0.2.5", A, "agent", "eth1")]
    for order in (told, told[::-1]):
        assert [(a.address, a.sources) for a in merge(order, (A,))] == [("192.0.2.5", ["agent"])]


def test_addresses_that_help_nobody_are_left_out() -> None:
    useless = ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "0.0.0.0", "nonsense", ""]
    assert merge([Sight(address, A, "agent") for address in useless], (A,)) == ()
    assert merge([Sight("172.17.0.1", "02:42:00:00:00:01", "agent", "docker0")], (A,)) == ()


def test_a_lying_agent_is_kept_within_bounds() -> None:
    answer = {f"if{i}\x1b[31m": {"hwaddr": A, "addrs": [{"addr": f"10.0.{i}.1"}]} for i in range(500)}
    merged = merge(sights_of(answer, "agent", named=True), (A,))
    assert len(merged) == MOST_ADDRESSES
    assert all(address.interface.isprintable() for address in merged)
    for nonsense in (None, [], {"x": None}, {"x": {"addrs": None}}, {"x": {"addrs": [{}], "hwaddr": None}}):
        assert merge(sights_of(nonsense, "agent", named=True), (A,)) == ()
    assert clean("\x1b]0;x\x07" + "h" * 1000).isprintable()
    assert len(clean("h" * 1000)) == 253
