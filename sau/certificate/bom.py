"""A version as a CycloneDX 1.6 machine-learning bill of materials."""

import uuid
from typing import Any

from sau.certificate.record import PREDICATE, Statement


def bom(statement: Statement) -> dict[str, Any]:
    """What a version is made of, from its evidence record: files, data sets, libraries, numbers of the battery.

    Only what the record says goes in; the serial number follows from the weights, so one version has one.
    """
    evidence = statement.predicate
    line, _, number = evidence.decision.version.partition("@")
    version = {"type": "machine-learning-model", "bom-ref": evidence.decision.version, "name": line, "version": number}
    inputs = evidence.inputs
    data: list[dict[str, Any]] = [
        {
            "type": "data",
            "bom-ref": f"data:{inputs.data}",
            "name": "training data without the forgotten rows",
            "hashes": [{"alg": "MD5", "content": inputs.data.removesuffix(".dir")}],
        }
    ]
    files = [
        {"type": "file", "name": f.name, "hashes": [{"alg": "SHA-256", "content": f.digest.sha256}]}
        for f in statement.subject
    ]
    surroundings = {"machine", "processor"}
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{v}",
            "name": name,
            "version": v,
            "purl": f"pkg:pypi/{name}@{v}",
        }
        for name, v in evidence.procedure.surroundings.items()
        if name not in surroundings | {"python"}
    ]
    metrics = [
        {"type": check.id, "value": f"{check.statistic:.6g}"}
        | (
            {
                "confidenceInterval": dict(
                    zip(("lowerBound", "upperBound"), map("{:.6g}".format, check.interval), strict=True)
                )
            }
            if check.interval
            else {}
        )
        for check in evidence.checks
        if check.statistic is not None
    ]
    card = {
        "modelParameters": {"task": "text-generation", "datasets": [{"ref": d["bom-ref"]} for d in data]},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": [*evidence.limits, *evidence.not_covered]},
    }
    facts = {
        "weights made from": f"{inputs.parent} ({inputs.parent_weights})",
        "mask": inputs.mask,
        "sparsity": f"{inputs.sparsity:.6f} ({inputs.structure})",
        "method": f"{evidence.procedure.method}, redistribution {evidence.procedure.redistribution}",
        "verdict": evidence.batch_verdict,
        "recipe commit": inputs.git_commit,
    }
    same = f"{PREDICATE}/{evidence.decision.version}/{inputs.git_commit}"
    refs = [str(part["bom-ref"]) for part in (*data, *libraries)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, same)}",
        "version": 1,
        "metadata": {
            "timestamp": evidence.issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": version
            | {
                "modelCard": card,
                "properties": [{"name": f"sau:{key}", "value": value} for key, value in facts.items()],
            },
        },
        "components": [*files, *data, *libraries],
        "dependencies": [{"ref": evidence.decision.version, "dependsOn": refs}],
    }
