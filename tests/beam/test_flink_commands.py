"""What `psad flink` says where it cannot do what it is asked for; no cluster is needed."""

import json
import subprocess

import pytest

from psad_tf.cli.main import main


@pytest.mark.parametrize("action", ["stop", "options"])
def test_without_a_cluster_there_is_nothing_to_stop_or_to_use(tmp_path, capfd, action):
    assert main(["flink", action, "--cluster_dir", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"psad: {tmp_path}/cluster.json: no such file: no cluster runs there")


def test_without_java_the_command_says_so(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["flink", "start", "--cluster_dir", str(tmp_path / "cluster")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "needs Java" in line
    assert not (tmp_path / "cluster").exists()


def test_without_maven_and_jars_the_command_says_what_is_missing(tmp_path, capfd, monkeypatch):
    (tmp_path / "java").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--cluster_dir", str(tmp_path / "cluster"), "--jars_dir", str(tmp_path / "jars")]
    assert main(["flink", "start", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("jars: no such folder, and no Maven ('mvn') to fetch it with")


def test_the_options_of_a_cluster_can_be_put_into_a_command(tmp_path, capfd):
    options = ["--job_endpoint=localhost:1", '--environment_config={"command":"/a/worker"}']
    (tmp_path / "cluster.json").write_text(json.dumps({"beam_options": options}))
    assert main(["flink", "options", "--cluster_dir", str(tmp_path)]) == 0
    command = ["sh", "-c", "printf '%s\\n' $(cat)"]
    found = subprocess.run(command, input=capfd.readouterr().out, capture_output=True, text=True)
    assert found.stdout.splitlines() == options
