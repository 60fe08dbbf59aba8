"""What runs and watches the service: alerts, the systemd unit, the image, and the pages that explain them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.metrics import DECLARED, OF_SERVER
from app.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RULES = (DEPLOY / "alerts.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; Debian's package: prometheus")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


class TestAlerts:
    @needs_promtool
    @pytest.mark.parametrize(
        "command",
        [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]],
        ids=" ".join,
    )
    def test_prometheus_takes_them_and_they_go_off_when_they_should(self, command: list[str]) -> None:
        assert PROMTOOL is not None
        done = subprocess.run([PROMTOOL, *command], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_each_has_a_case_and_a_paragraph(self) -> None:
        cases = (DEPLOY / "alerts.test.yml").read_text()
        sections = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=\n###? |\Z)", page("docs/operations.md"), re.M | re.S))
        assert len(ALERTS) == len(set(ALERTS)) > 10
        assert list(sections) == ALERTS, "in one order"
        for alert in ALERTS:
            assert re.search(rf"alertname: {alert}\n\s+exp_alerts:\n", cases), f"{alert} never goes off"
            assert f"alertname: {alert}, exp_alerts: []" in cases, f"{alert} never keeps quiet"
            assert len(sections[alert]) > 100

    def test_they_and_the_dashboard_ask_for_what_there_is(self) -> None:
        """Of a histogram or counter Prometheus has names of its own."""
        dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
        asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]) + RULES
        named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bcarousel_\w+", asked)}
        assert len(named) > 15
        assert named <= {metric.name for metric in (*DECLARED.values(), *OF_SERVER)}
        assert set(re.findall(r"\bprocess_\w+", asked)) == {
            f"process_{name}" for name in ("resident_memory_bytes", "start_time_seconds", "open_fds", "max_fds")
        }


class TestSupplyChain:
    DOCKERFILE = page("Dockerfile").replace("\\\n", " ")
    STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]

    @pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda lock: lock.name)
    def test_every_package_is_locked_with_its_sums(self, lock: Path) -> None:
        lines = lock.read_text().replace("\\\n", " ").splitlines()
        packages = [line for line in lines if not line.startswith("#")]
        assert packages
        for package in packages:
            assert re.match(r"[\w.-]+==\S+( ;.*?)?( +--hash=sha256:[0-9a-f]{64})+$", package), package

    def test_the_image_takes_packages_from_the_lock_alone(self) -> None:
        """But for PyTorch, which is no part of it, in one version, and only where somebody asks for it."""
        installs = re.findall(r"\bpip --python \S+ install (.*)", self.DOCKERFILE)
        locked, cpu, cuda, own = installs
        assert locked == "--require-hashes -r /src/requirements/serve.txt"
        assert cpu.split(" ;;")[0].endswith('"torch==$TORCH_VERSION"')
        assert cuda == '"torch==$TORCH_VERSION" ;;'
        assert own.startswith("--no-deps . ")

    def test_the_image_begins_with_one_base_in_both_places(self) -> None:
        """So that its digest, where one is set, is that of all of it."""
        assert re.search(r"^ARG BASE=python:3\.11-slim(@sha256:[0-9a-f]{64})?$", self.DOCKERFILE, re.M)
        assert [stage.split()[0] for stage in self.STAGES] == ["$BASE", "$BASE", "scratch"]

    def test_the_image_has_neither_compiler_nor_pip_nor_root(self) -> None:
        build, system, final = self.STAGES
        assert "--without-pip /venv" in build
        assert "g++" in build
        assert not re.search(r"g\+\+|gcc|apt-get", system + final)
        for tool in ("site-packages/*", "ensurepip", "/usr/local/bin/pip*", "/usr/bin/apt*", "/usr/bin/dpkg*"):
            assert tool in system
        assert re.findall(r"^COPY --from=(\S+ \S+)", final, re.M) == ["system /", "build /venv"]
        assert not re.search(r"^(RUN|ADD)", final, re.M)
        assert "\nUSER carousel\n" in final

    def test_what_the_lists_are_made_by_is_locked_too(self) -> None:
        """In a lock of its own: the tools are no part of what they look at."""
        install = "pip install --quiet --python $(SUPPLY)/bin/python --require-hashes -r $<"
        assert install in page("Makefile")
        assert {"cyclonedx-bom", "pip-audit"} <= set(re.findall(r"^([\w-]+)==", page("requirements/supply.txt"), re.M))
        assert not re.search(r"^(cyclonedx-bom|pip-audit)==", page("requirements/dev.txt"), re.M)


@pytest.mark.parametrize(
    "name", ["docs/operations.md", "docs/security.md", "docs/serving.md", "deploy/carousel.service"]
)
def test_settings_that_a_page_names_exist(name: str) -> None:
    named = set(re.findall(r"CAROUSEL_(\w+)", page(name)))
    assert {setting.lower() for setting in named} - {"address"} <= set(Settings.model_fields)


def test_the_unit_starts_the_server_anew_and_gives_it_no_rights() -> None:
    unit = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "carousel.service").read_text(), re.M))
    assert unit["ExecStart"].endswith("python -m app serve")
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert unit["Restart"] == "on-failure"
    assert unit["ProtectSystem"] == "strict"
    assert unit["CapabilityBoundingSet"] == ""
    assert {unit[name] for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "MemoryDenyWriteExecute")} == {
        "yes"
    }
    assert unit["MemoryMax"]
    assert float(unit["TimeoutStopSec"]) > Settings.model_fields["grace_seconds"].default + 5
