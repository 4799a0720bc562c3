"""The manifests of `k8s/` as kubectl or kustomize builds them, and what they let happen between pods."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT

FOLDER = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu")
Document = dict[str, Any]


def build(folder: Path) -> list[Document]:
    """What would be applied; without kubectl and kustomize the test is skipped."""
    return list(_build(folder))


def overlay(name: str) -> list[Document]:
    """What an overlay would apply."""
    return build(FOLDER / "overlays" / name)


@functools.cache
def _build(folder: Path) -> tuple[Document, ...]:
    for program, verb in (("kubectl", "kustomize"), ("kustomize", "build")):
        if shutil.which(program):
            done = subprocess.run([program, verb, str(folder)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr)
            return tuple(yaml.safe_load_all(done.stdout))
    pytest.skip("neither kubectl nor kustomize on this machine")


def written() -> list[tuple[Path, Document]]:
    """Every whole object as it is written; patches and kustomizations are none."""
    found = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            is_object = isinstance(document, dict) and document["kind"] not in ("Kustomization", "Component")
            if is_object and path.parent.parent.name != "overlays" and not _is_patch(path):
                found.append((path, document))
    return found


def _is_patch(path: Path) -> bool:
    kustomization = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
    return path.name in {patch.get("path") for patch in kustomization.get("patches", ())}


def of_kind(documents: Iterable[Document], kind: str) -> dict[str, Document]:
    """Objects of a kind by name."""
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def pod_of(deployment: Document) -> Document:
    """The specification of a deployment's pods."""
    return dict(deployment["spec"]["template"]["spec"])


def container_of(deployment: Document) -> Document:
    """The only container of a deployment's pods."""
    (container,) = pod_of(deployment)["containers"]
    return dict(container)


def assert_restricted(workload: Document) -> None:
    """Fail unless its pod may do no more than it must."""
    pod, container = pod_of(workload), container_of(workload)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def variables_of(deployment: Document, documents: Iterable[Document]) -> dict[str, str | None]:
    """The environment of a container; None where the value is not known before the pod runs."""
    container, maps = container_of(deployment), of_kind(documents, "ConfigMap")
    values: dict[str, str | None] = {}
    for source in container.get("envFrom", ()):
        values |= maps[source["configMapRef"]["name"]]["data"]
    return values | {variable["name"]: variable.get("value") for variable in container.get("env", ())}


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector holds; an empty one always does, none never.

    Raises:
        ValueError: It uses an operator that the manifests do not.
    """
    if selector is None:
        return False
    for expression in selector.get("matchExpressions", ()):
        if expression["operator"] != "In":
            raise ValueError(f"operator {expression['operator']}")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


@dataclass(frozen=True, slots=True)
class Pod:
    """Somebody on the cluster's network.

    Attributes:
        labels: Its own.
        namespace: Labels of its namespace.
        ports: Numbers by name.
    """

    labels: Mapping[str, str]
    namespace: Mapping[str, str]
    ports: Mapping[str, int]


def pod(deployment: Document) -> Pod:
    """A pod of a deployment in the manifests' namespace."""
    ports = {port["name"]: port["containerPort"] for port in container_of(deployment)["ports"]}
    return Pod(deployment["spec"]["template"]["metadata"]["labels"], OWN_NAMESPACE, ports)


OWN_NAMESPACE = {"kubernetes.io/metadata.name": "latent-pmrf"}


def may_connect(policies: Iterable[Document], source: Pod, target: Pod, port: int) -> bool:
    """Whether a pod may open a connection to another, by both sides' policies."""
    specs = [policy["spec"] for policy in policies]
    return _allows(specs, "Egress", source, target, target, port) and _allows(
        specs, "Ingress", target, source, target, port
    )


def _allows(specs: list[Document], way: str, bound: Pod, other: Pod, target: Pod, port: int) -> bool:
    rules, peers = ("egress", "to") if way == "Egress" else ("ingress", "from")
    binding = [
        spec
        for spec in specs
        if way in spec["policyTypes"]
        and bound.namespace == OWN_NAMESPACE
        and selects(spec["podSelector"], bound.labels)
    ]
    return not binding or any(
        any(_is_peer(peer, bound, other) for peer in rule[peers])
        and port in {target.ports.get(entry["port"], entry["port"]) for entry in rule["ports"]}
        for spec in binding
        for rule in spec.get(rules, ())
    )


def _is_peer(peer: Document, bound: Pod, other: Pod) -> bool:
    if "ipBlock" in peer:
        return False  # addresses outside the cluster
    same = bound.namespace == other.namespace
    in_namespace = selects(peer["namespaceSelector"], other.namespace) if "namespaceSelector" in peer else same
    return in_namespace and selects(peer.get("podSelector", {}), other.labels)
