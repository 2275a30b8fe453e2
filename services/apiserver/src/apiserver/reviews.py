"""The kinds that answer a question and store nothing: who am I, may I, whose token is this."""

from __future__ import annotations

from typing import Any

from .auth import Tokens, User
from .builtins import definition_schema
from .resources import Object, Resource, Strategy

ALLOWED = {"allowed": True, "reason": "the caller is an administrator of this server"}
DENIED = {"allowed": False, "reason": "the group system:monitoring reads /metrics and nothing else"}


def review_resources(tokens: Tokens) -> list[Resource]:
    """Return all review kinds."""

    def who(obj: Object, user: User) -> Object:
        return {**obj, "status": {"userInfo": user.wire()}}

    def may(obj: Object, user: User) -> Object:
        spec = obj.get("spec") or {}
        asked = (spec.get("nonResourceAttributes") or {}).get("path") or ""
        meant = User(spec.get("user") or user.name, groups=tuple(spec.get("groups") or ()))
        return {**obj, "status": dict(ALLOWED if meant.may_read(asked) else DENIED)}

    def rules(obj: Object, user: User) -> Object:
        everything = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
        urls = [{"verbs": ["*"], "nonResourceURLs": ["*"]}]
        return {**obj, "status": {"resourceRules": everything, "nonResourceRules": urls, "incomplete": False}}

    def token(obj: Object, user: User) -> Object:
        owner = tokens.user((obj.get("spec") or {}).get("token") or "")
        status: dict[str, Any] = {"authenticated": owner is not None}
        if owner is not None:
            status["user"] = owner.wire()
        else:
            status["error"] = "unknown token"
        return {**obj, "spec": {}, "status": status}

    authn, authz = "authentication.k8s.io", "authorization.k8s.io"
    return [
        _review(authn, "SelfSubjectReview", who),
        _review(authn, "TokenReview", token),
        _review(authz, "SelfSubjectAccessReview", may),
        _review(authz, "SubjectAccessReview", may),
        _review(authz, "LocalSubjectAccessReview", may, namespaced=True),
        _review(authz, "SelfSubjectRulesReview", rules),
    ]


def _review(group: str, kind: str, answer: Any, *, namespaced: bool = False) -> Resource:
    name = f"io.k8s.api.{group.removesuffix('.k8s.io')}.v1.{kind}"
    return Resource(
        group=group,
        version="v1",
        kind=kind,
        plural=kind.lower() + "s",
        singular=kind.lower(),
        list_kind=f"{kind}List",
        namespaced=namespaced,
        verbs=("create",),
        schema=definition_schema(name),
        definition=name,
        strategy=Strategy(review=answer),
    )
