"""The Helm chart, linted and rendered by Helm itself (helm-python-sdk)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this system")
CHART = Path(__file__).parents[2] / "deploy" / "helm"


def rendered(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is made of the chart with these values, by its kind."""
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="demo", namespace="speech").values()
    return {made["kind"]: made for text in texts for made in yaml.safe_load_all(text) if made}


def test_the_chart_is_one_and_its_server_runs_as_nobody_on_a_volume() -> None:
    lint = helm.lint(str(CHART))
    assert not lint["errors"] and {each["error"] for each in lint["messages"]} <= {"icon is recommended"}
    made = rendered({})
    assert set(made) == {"Deployment", "Service", "PersistentVolumeClaim"}
    spec = made["Deployment"]["spec"]
    pod, (server,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and server["securityContext"]["readOnlyRootFilesystem"]
    assert server["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    probes = {name: server[name]["httpGet"]["path"] for name in server if name.endswith("Probe")}
    assert probes == {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
    assert server["args"] == ["--host", "0.0.0.0", "--keys", "/keys/keys.toml"] and "env" not in server
    mounts, volumes = ({each["name"] for each in of} for of in (server["volumeMounts"], pod["volumes"]))
    assert mounts == volumes == {"data", "keys", "temporary"}
    assert spec["selector"]["matchLabels"] == made["Service"]["spec"]["selector"]
    assert spec["template"]["metadata"]["labels"] == spec["selector"]["matchLabels"]


def test_several_servers_need_a_database_and_a_volume_of_all() -> None:
    several = {"replicas": 2, "database": {"secret": "pg"}, "persistence": {"accessMode": "ReadWriteMany"}}
    made = rendered({**several, "args": ["--model", "tiny-multi"]})
    (server,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert server["env"][0]["name"] == "REDLINE_DATABASE" and server["args"][-2:] == ["--model", "tiny-multi"]
    assert made["Deployment"]["spec"]["strategy"] == {"type": "RollingUpdate"}
    assert "PersistentVolumeClaim" not in rendered({"persistence": {"existingClaim": "talks"}})
    for lack in ("database", "persistence"):
        with pytest.raises(helm.HelmError, match="more than one replica needs"):
            rendered({name: value for name, value in several.items() if name != lack})
