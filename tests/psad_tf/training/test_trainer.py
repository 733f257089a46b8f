"""Training runs: resume, divergence, existing folders, configurations."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from psad_tf.beam.pipeline import preprocess
from psad_tf.config import DataConfig, DistillationConfig, OptimizerConfig, TrainConfig
from psad_tf.data.list_folder import load_encoder
from psad_tf.errors import InputError
from psad_tf.evaluation.evaluate import evaluate_run, worse_than_initial
from psad_tf.features import FeatureDeclaration, load_json
from psad_tf.training import trainer as training
from psad_tf.training.callbacks import ExactResume
from psad_tf.training.run_folder import check_run, load_parts, load_psad, load_reranker, start_run
from tests import own_logs, tiny


def settings(**changes: object) -> TrainConfig:
    config = tiny.smallest(
        slots=8,
        dropout=0.1,
        data=DataConfig(batch_size=32, list_sizes=(8,)),
        epochs=2,
        checkpoint_steps=2,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def finished_and_said(lists_dir, tmp_path_factory) -> tuple[str, str]:
    folder = str(tmp_path_factory.mktemp("runs") / "straight")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        training.train(lists_dir, folder, settings())
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def finished(finished_and_said) -> str:
    return finished_and_said[0]


def weights(run_dir: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(os.path.join(run_dir, "checkpoints")))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "CHECKPOINTABLE" not in name
    }


def test_an_unfinished_run_is_neither_overwritten_nor_evaluated(lists_dir, tmp_path):
    folder = str(tmp_path / "run")
    os.makedirs(folder + ".partial")
    with pytest.raises(InputError, match="--resume"):
        training.train(lists_dir, folder, settings(), verbose=False)
    with pytest.raises(InputError, match="not a finished run"):
        load_parts(folder + ".partial")


def test_a_finished_run_is_not_overwritten_by_accident(lists_dir, finished):
    before = weights(finished)
    with pytest.raises(InputError, match="--overwrite"):
        training.train(lists_dir, finished, settings(), verbose=False)
    assert weights(finished).keys() == before.keys()


def test_resuming_with_another_configuration_is_refused(lists_dir, tmp_path):
    folder = tmp_path / "run.partial"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings(seed=9).to_dict()))
    with pytest.raises(InputError, match="another configuration"):
        training.train(lists_dir, tmp_path / "run", settings(), resume=True, verbose=False)


def test_resuming_on_other_lists_or_features_is_refused(lists_dir, tmp_path):
    declaration = load_encoder(lists_dir).declaration
    start_run(str(tmp_path / "run.partial"), lists_dir, declaration, settings())

    def check(lists: object = lists_dir, features: FeatureDeclaration = declaration) -> None:
        check_run(str(tmp_path / "run"), lists, features, settings(), resume=True)

    check()
    other = shutil.copytree(lists_dir, tmp_path / "lists")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["vocabularies/item_id.txt"]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"not the lists .* \(vocabularies/item_id\.txt differs\)"):
        check(lists=other)
    with pytest.raises(InputError, match="another feature declaration"):
        check(features=dataclasses.replace(declaration, max_candidates=9))


@pytest.mark.slow
def test_lists_of_several_sizes_train_in_one_graph(tmp_path):
    declared = own_logs.declaration()
    raw = own_logs.write(tmp_path / "raw", [3 + index % 6 for index in range(60)], declared)
    preprocess(str(raw), str(tmp_path / "lists"), declared)
    config = tiny.smallest(slots=5, data=DataConfig(batch_size=8, list_sizes=(5, 8)), epochs=1)
    config = config.changed({"model": {"teacher": {"block_size": 2}}})
    with contextlib.redirect_stdout(io.StringIO()) as said:
        result = training.train(tmp_path / "lists", tmp_path / "run", config)
    assert "padded to 5 or 8 candidates" in said.getvalue()
    assert all(np.isfinite(value) for value in result.metrics["teacher"].values())


def test_a_checkpoint_of_another_model_or_a_damaged_one_is_not_resumed(tmp_path):
    def resume(folder: str, units: int, **tracked: tf.Variable) -> ExactResume:
        model = tf.keras.Sequential([tf.keras.layers.Dense(units)])
        model.build((None, 2))
        model.compile("adam")
        return ExactResume(model, str(tmp_path / folder), 1, **tracked)

    former = resume("former", 3, counted=tf.Variable(0.0))
    former._manager.save(checkpoint_number=1)
    for units, tracked in ((3, {}), (4, {"counted": tf.Variable(0.0)}), (3, {"other": tf.Variable(0.0)})):
        with pytest.raises(InputError, match="ckpt-1: does not fit"):
            resume("new", units, **tracked).restore(str(tmp_path / "former"))
    again = resume("new", 3, counted=tf.Variable(1.0))
    assert again.restore(str(tmp_path / "former"))
    (data,) = (tmp_path / "former").glob("*.data-*")
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(InputError, match="ckpt-1: is damaged"):
        again.restore(str(tmp_path / "former"))


@pytest.mark.slow
def test_divergence_stops_with_step_terms_and_batch(lists_dir, tmp_path):
    wild = settings(optimizer=OptimizerConfig(learning_rate=900.0, warmup_steps=0, clip_norm=1e9), epochs=9)
    with pytest.raises(training.TrainingDiverged, match=r"step \d+: .*value.*diverged_batch\.npz"):
        training.train(lists_dir, tmp_path / "run", wild, verbose=False)
    assert not (tmp_path / "run").exists()
    with np.load(tmp_path / "run.partial" / "diverged_batch.npz") as batch:
        assert batch["labels"].shape == (32, 8)


@pytest.mark.slow
def test_a_gradient_that_is_no_number_stops_the_step_that_made_it_though_its_loss_is_sound(
    lists_dir, tmp_path, monkeypatch
):
    loss = training.PSAD.compute_losses

    def poisoned(self, batch, dropout_seed, ties, weight):
        terms = loss(self, batch, dropout_seed, ties, weight)
        kernel = tf.reduce_sum(self.teacher.trainable_variables[0])
        zero = kernel - tf.stop_gradient(kernel)
        late = tf.cond(self.step >= 4, lambda: tf.sqrt(zero), lambda: zero)  # a slope of infinity at 0
        return {**terms, "loss": terms["loss"] + late}

    monkeypatch.setattr(training.PSAD, "compute_losses", poisoned)
    with pytest.raises(training.TrainingDiverged, match=r"step 5: .*gradient_norm (nan|inf).*ckpt-4;"):
        training.train(lists_dir, tmp_path / "run", settings(), verbose=False)
    reader = tf.train.load_checkpoint(str(tmp_path / "run.partial" / "checkpoints" / "ckpt-4"))
    for name in reader.get_variable_to_shape_map():
        value = reader.get_tensor(name)
        assert getattr(value, "dtype", None) != np.float32 or np.isfinite(value).all(), name


@pytest.mark.slow
def test_a_loss_above_the_largest_that_is_allowed_stops_the_run(lists_dir, tmp_path):
    with pytest.raises(training.TrainingDiverged, match=r"step 1: loss [\d.]+, .*no checkpoint was due"):
        training.train(lists_dir, tmp_path / "run", settings(max_loss=0.5), verbose=False)


def test_the_best_and_the_last_checkpoints_are_kept(lists_dir, finished):
    metrics = load_json(os.path.join(finished, "metrics.json"))
    best = tf.train.get_checkpoint_state(os.path.join(finished, "best"))
    assert [os.path.basename(each) for each in best.all_model_checkpoint_paths] == [
        f"ckpt-{metrics['best_epoch']}"
    ]
    last = tf.train.get_checkpoint_state(os.path.join(finished, "checkpoints")).all_model_checkpoint_paths
    assert [os.path.basename(each) for each in last] == ["ckpt-10", "ckpt-12"]
    files = {name.split(".")[0] for name in os.listdir(os.path.join(finished, "checkpoints"))}
    assert files == {"checkpoint", "ckpt-10", "ckpt-12"}


def test_the_losses_of_an_epoch_are_means_over_its_steps(finished):
    history = load_json(os.path.join(finished, "history.json"))
    # b(t) rises by the same amount each step, so its mean is that of the middle of the epoch.
    ramp = settings().distillation.ramp_steps
    middle = [(1 + 6) / 2 / (ramp + 1), (7 + 12) / 2 / (ramp + 1)]
    assert [each["losses"]["distillation_weight"] for each in history] == pytest.approx(middle, rel=1e-4)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_lists_without_any_positive_are_refused_before_training(lists_dir, tmp_path, split):
    copied = shutil.copytree(lists_dir, tmp_path / "lists")
    manifest = json.loads((copied / "manifest.json").read_text())
    for path in (copied / split).glob("*.gz"):
        records = list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator())
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for record in records:
                lists = input_pb2.ExampleListWithContext.FromString(record)
                for candidate in lists.examples:
                    candidate.features.feature["relevance"].float_list.value[:] = [0.0]
                writer.write(lists.SerializeToString())
        manifest["files"][f"{split}/{path.name}"]["bytes"] = path.stat().st_size
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"no list of the split '{split}' has a candidate with a label of 1"):
        training.train(copied, tmp_path / "run", settings(), verbose=False)
    assert not (tmp_path / "run.partial").exists(), "refused before anything was made"


def test_reranker_loads_without_the_teacher_and_scores_as_the_whole_model(lists_dir, finished):
    _, reranker, _ = load_reranker(finished)
    _, model, _ = load_psad(finished)
    assert not any(
        "teacher" in variable.name or "encoder" in variable.name for variable in reranker.variables
    )
    from psad_tf.data.batches import ListDataset

    lists = ListDataset(lists_dir, "test", load_encoder(lists_dir), settings().data)
    batch = next(iter(lists.batches()))
    np.testing.assert_allclose(reranker(batch)["scores"], model.rank(batch)["student"], atol=1e-5)


@pytest.mark.slow
def test_evaluation_has_every_model_and_a_value_for_every_list(lists_dir, finished):
    evaluation = evaluate_run(finished, lists_dir, "test")
    count = json.loads((lists_dir / "manifest.json").read_text())["lists"]["test"]
    assert set(evaluation.values) == {"initial", "student", "teacher"}
    assert {len(each["ndcg@10"]) for each in evaluation.values.values()} == {count}
    assert all(0.0 <= value <= 1.0 for each in evaluation.means().values() for value in each.values())


@pytest.mark.slow
def test_offline_distillation_trains_a_tutor_first(lists_dir, tmp_path):
    offline = settings(distillation=DistillationConfig(mode="offline"), epochs=1)
    training.train(lists_dir, tmp_path / "run", offline, verbose=False)
    assert (tmp_path / "run" / "tutor" / "best").is_dir()
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[0]["losses"]["distillation"] > 0.0 and "value" not in history[0]["losses"]


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("optimizer: unknown key 'learning_rte'", {"optimizer": {"learning_rte": 1.0}}),
        ("model.teacher.block_size", {"model": {"teacher": {"slots": 4, "block_size": 5}}}),
        ("optimizer: learning_rate: expected float", {"optimizer": {"learning_rate": "fast"}}),
        ("model.teacher.num_heads", {"model": {"embedding_dim": 10, "teacher": {"num_heads": 4}}}),
        ("loss.policy_weight", {"distillation": {"source": "forced"}}),
        ("model: unknown key 'dropout'", {"model": {"dropout": 0.1}}),  # of a version before
        ("data.list_sizes", {"data": {"list_sizes": [20, 10]}}),
        ("mixed_precision", {"mixed_precision": "float8"}),
    ],
)
def test_a_wrong_configuration_is_refused_naming_the_key(key, data):
    with pytest.raises(InputError, match=f".*{key}"):
        TrainConfig.from_dict(data)


def test_a_configuration_survives_json():
    config = settings()
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_student_worse_than_the_initial_order_is_said_in_one_line():
    worse = {"initial": {"ndcg@10": 0.5}, "student": {"ndcg@10": 0.25}}
    assert worse_than_initial(worse, "test") == (
        "The student is worse than the initial order on the test lists: NDCG@10 0.2500 against 0.5000. "
        "Do not serve it."
    )
    assert worse_than_initial({"initial": {"ndcg@10": 0.5}, "student": {"ndcg@10": 0.5}}, "test") == ""


def test_a_run_says_what_it_compiles_and_which_of_how_many_epochs_is_done(finished_and_said):
    said = finished_and_said[1]
    assert "192 training lists of up to 8 candidates" in said and "padded to 8 candidates" in said
    assert "Tracing the train step, once per list size (8)" in said and "First step after" in said
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "Epoch 1/1" not in said


@pytest.mark.slow
def test_lists_are_grouped_by_the_length_of_their_histories(lists_dir, finished):
    evaluation = evaluate_run(finished, lists_dir, "test")
    groups = evaluation.by_history(3)
    assert sum(group["lists"] for group in groups) == len(evaluation.history_lengths)
    ends = [(group["min_history"], group["max_history"]) for group in groups]
    assert all(longest < shortest for (_, longest), (shortest, _) in itertools.pairwise(ends))
    chosen = evaluation.history_lengths <= groups[0]["max_history"]
    ndcg = evaluation.values["student"]["ndcg@10"][chosen]
    assert groups[0]["means"]["student"]["ndcg@10"] == pytest.approx(np.nanmean(ndcg), nan_ok=True)
    (everyone,) = evaluation.by_history(1)
    for model, metrics in evaluation.means().items():
        assert everyone["means"][model] == pytest.approx(metrics, nan_ok=True)
