"""The snippets of docs/cluster.md: what can be held to a schema or a parser is."""

import json
import re
import shlex
import subprocess
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

from sweeper.commands.arguments import parser
from sweeper.study.loader import load

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def blocks(kind):
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found, kind
    return found


def pinned(package):
    return re.search(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def sweeper_commands():
    """Every `sweeper …` of the page but those that only name it, each as words."""
    text = PAGE.replace("\\\n", " ")
    found = re.findall(r"(?:^|[ /])(sweeper (?:run|status|plan|report|check) [^\n'#`]*)", text, re.MULTILINE)
    return [shlex.split(command.strip()) for command in found]


def test_the_page_has_the_commands_that_it_is_about():
    commands = sweeper_commands()
    assert len(commands) >= 6
    assert sum("--address" in command for command in commands) >= 5


@pytest.mark.parametrize("command", sweeper_commands(), ids=" ".join)
def test_commands_are_ones_that_sweeper_takes(command):
    taken = parser(defaultdict(lambda: lambda arguments: None)).parse_args(command[1:])
    path = Path(re.sub(r"^~/sweeper/", "", str(taken.study)))
    if path.suffix == ".yaml":
        load(ROOT / path, profile=taken.profile)
    assert str(path) == "STUDY" or path.suffix == ".yaml"


def test_ray_up_takes_the_cluster_file():
    (cluster,) = [document for document in map(yaml.safe_load, blocks("yaml")) if "cluster_name" in document]
    folder = Path(find_spec("ray").submodule_search_locations[0])
    jsonschema.validate(cluster, json.loads((folder / "autoscaler" / "ray-schema.json").read_text()))
    assert {"head_ip", "worker_ips"} <= set(cluster["provider"])
    for commands in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in cluster[commands]:
            check_bash(command)


def test_kuberay_has_the_keys_that_it_needs():
    (job,) = [document for document in map(yaml.safe_load, blocks("yaml")) if "kind" in document]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert shlex.split(job["spec"]["entrypoint"])[:2] == ["sweeper", "run"]
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned("ray")
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert all(isinstance(value, str) for value in head["rayStartParams"].values())
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]
    (head_container,), (worker_container,) = (group["template"]["spec"]["containers"] for group in (head, workers))
    assert head_container["image"] == worker_container["image"]
    assert worker_container["resources"]["limits"]["nvidia.com/gpu"] > 0
    mounted = {mount["name"] for mount in head_container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in head["template"]["spec"]["volumes"]}


def check_bash(text):
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr


@pytest.mark.parametrize("script", blocks("bash"), ids=lambda script: script.splitlines()[0])
def test_scripts_are_bash(script):
    check_bash(script)


def test_the_slurm_script_is_one_and_ray_takes_its_options():
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    (script,) = [script for script in blocks("bash") if script.startswith("#!/bin/bash\n#SBATCH")]
    (run,) = re.findall(r"^srun ray symmetric-run (.*?) -- ", script.replace("\\\n", " "), re.MULTILINE)
    own = {option for parameter in symmetric_run.params for option in parameter.opts}
    of_start = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    written = re.findall(r"--[a-z-]+", run)
    assert written == ["--address", "--min-nodes", "--disable-usage-stats"]
    assert set(written) <= own | of_start


def test_every_ray_start_has_options_that_ray_knows():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for options in re.findall(r"ray start( --[^`\n]*)", PAGE):
        assert set(re.findall(r"--[a-z-]+", options)) <= known


def test_the_image_has_the_pinned_ray():
    (image,) = blocks("dockerfile")
    assert image.startswith(f"FROM rayproject/ray:{pinned('ray')}-py311-gpu\n")
