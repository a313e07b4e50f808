"""The manifests in deploy/kubernetes against Kubernetes' own OpenAPI schemas, of several versions, and that what
they say of each other agrees: kubernetes.py FOLDER"""
import pathlib
import re
import sys

import kubernetes_validate
import yaml

VERSIONS = ["1.27", "1.31"]


def documents(folder):
    for path in sorted(folder.glob("*.yaml")):
        if path.name == "kustomization.yaml":
            continue
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def expect(what, truth):
    if not truth:
        sys.exit(f"FAIL: {what}")


def check_references(docs):
    by_kind = {}
    for _, d in docs:
        by_kind.setdefault(d["kind"], {})[d["metadata"]["name"]] = d
    pods = {name: d["spec"]["template"] for kind in ("StatefulSet", "Deployment") for name, d in by_kind[kind].items()}
    for name, pod in pods.items():
        spec = pod["spec"]
        claims = by_kind.get("StatefulSet", {}).get(name, {}).get("spec", {}).get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in spec["volumes"]} | {c["metadata"]["name"] for c in claims}
        for container in spec["initContainers"] + spec["containers"]:
            mounts = {m["name"] for m in container["volumeMounts"]}
            expect(f"{name}: volumes {mounts - volumes} are mounted and not there", mounts <= volumes)
            context = container["securityContext"]
            expect(f"{name}: a container may gain rights", context["allowPrivilegeEscalation"] is False and
                   context["capabilities"]["drop"] == ["ALL"] and context["readOnlyRootFilesystem"])
        expect(f"{name} may run as root", spec["securityContext"]["runAsNonRoot"])
        for v in spec["volumes"]:
            claim = v.get("persistentVolumeClaim", {}).get("claimName")
            expect(f"{name}: no claim {claim}", claim is None or claim in by_kind["PersistentVolumeClaim"])
            config = v.get("configMap", {}).get("name")
            expect(f"{name}: no ConfigMap {config}", config is None or config in by_kind["ConfigMap"])
    labels = [pod["metadata"]["labels"] for pod in pods.values()]
    for policy in by_kind["NetworkPolicy"].values():
        want = policy["spec"]["podSelector"].get("matchLabels", {}).items()
        expect(f"policy {policy['metadata']['name']} selects nobody", any(want <= l.items() for l in labels))
    for service in by_kind["Service"].values():
        want = service["spec"]["selector"].items()
        expect("a Service selects nobody", any(want <= l.items() for l in labels))
    worker = pods["distill-worker"]["spec"]
    drain = next(int(a.split("=")[1]) for a in worker["containers"][0]["args"] if a.startswith("--drain-s="))
    expect("workers are killed before they have drained", drain < worker["terminationGracePeriodSeconds"])
    return by_kind["ConfigMap"]["distilld"]["data"]["distilld.yaml"]


def may_ask_names(docs, app):
    """Whether a policy lets the pods of that label send to port 53."""
    for _, d in docs:
        if d["kind"] == "NetworkPolicy" and d["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") == app:
            for rule in d["spec"].get("egress", []):
                if any(p["port"] == 53 for p in rule["ports"]):
                    return True
    return False


def check_readme(text, docs):
    """Its commands run where the policies allow what they do, and its policy is one."""
    servers = re.findall(r"exec distilld-0 .*--server (\S+):", text)
    expect("README.md: no join", servers)
    expect(f"README.md: {servers} are asked for in a pod without a name service",
           may_ask_names(docs, "distilld") or set(servers) <= {"localhost", "127.0.0.1"})
    policy = re.search(r"^    apiVersion:.*?(?=^\S)", text, re.M | re.S)
    expect("README.md: no policy", policy)
    return yaml.safe_load(policy.group())


def main():
    folder = pathlib.Path(sys.argv[1])
    docs = list(documents(folder))
    expect("no manifests", len(docs) >= 10)
    docs.append(("README.md", check_readme((folder / "README.md").read_text(), docs)))
    for name, document in docs:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                sys.exit(f"FAIL: {name}: {document['kind']}, Kubernetes {version}: {error.message} at {list(error.path)}")
    print(check_references(docs), end="")
    print(f"{len(docs)} objects against Kubernetes {' and '.join(VERSIONS)}", file=sys.stderr)


if __name__ == "__main__":
    main()
