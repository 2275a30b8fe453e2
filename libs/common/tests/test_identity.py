"""Names that certificates carry: one for each role, and never one for two."""

import pytest
from common import identity
from common.identity import Role
from hypothesis import given
from hypothesis import strategies as st


def test_what_the_names_look_like():
    assert identity.Server("shop", "lab").uri == "spiffe://virtrigaud.io/ns/shop/provider/lab"
    assert identity.Server("shop", "lab").host == "lab.shop.provider.virtrigaud.io"
    assert identity.client(Role.CONTROLLER) == "spiffe://virtrigaud.io/ns/virtrigaud-system/controller"
    assert identity.client(Role.VIEWER, "shop") == "spiffe://virtrigaud.io/ns/shop/viewer"


@pytest.mark.parametrize("role", Role)
def test_a_role_is_read_from_its_uri(role):
    assert identity.role_of(identity.client(role, "shop")) is role


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "virtrigaud-controller",
        "spiffe://virtrigaud.io/ns/shop/provider/controller",
        "spiffe://virtrigaud.io/ns/shop/controller/",
        "spiffe://virtrigaud.io/ns//controller",
        "spiffe://virtrigaud.io/ns/a/b/controller",
        "spiffe://virtrigaud-io/ns/shop/controller",
        "spiffe://other.io/ns/shop/controller",
        "https://virtrigaud.io/ns/shop/controller",
        "spiffe://virtrigaud.io/ns/shop/controller\n",
        "spiffe://virtrigaud.io/ns/shop/admin",
    ],
)
def test_no_other_name_has_a_role(uri):
    assert identity.role_of(uri) is None


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("shop", ""), ("", "lab"), ("shop", "Lab"), ("shop", "a/b"), ("sh.op", "lab"), ("shop", "*"), ("shop", "a" * 254)],
)
def test_what_is_no_kubernetes_name_gets_none(namespace, name):
    with pytest.raises(ValueError, match="is no name of a"):
        identity.Server(namespace, name)


def test_a_long_name_gets_a_host_that_dns_takes():
    host = identity.Server("shop", "a" * 253).host
    assert len(host) <= 253
    assert all(len(label) <= 63 for label in host.split("."))
    assert host != identity.Server("shop", "a" * 252).host


_LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,70}[a-z0-9])?", fullmatch=True)
_PROVIDERS = st.tuples(
    _LABELS.filter(lambda label: len(label) <= 63), st.lists(_LABELS, min_size=1).map(".".join)
).filter(lambda pair: len(pair[1]) <= 253)


@given(_PROVIDERS, _PROVIDERS)
def test_two_providers_never_share_a_host(one, other):
    assert (identity.Server(*one).host == identity.Server(*other).host) == (one == other)
