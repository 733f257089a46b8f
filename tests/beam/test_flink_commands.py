"""What `psad flink` says where it cannot do what it is asked for; no cluster is needed."""

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
