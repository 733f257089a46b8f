"""One training run of any model on one folder of lists, as a JSON-ready record."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.common import ResultStore, code_fingerprint, data_fingerprint, fingerprint, read_json
from psad_tf.baselines import NEURAL_BASELINES
from psad_tf.baselines.lambdamart import LambdaMART, LambdaMARTConfig
from psad_tf.baselines.training import train_baseline
from psad_tf.config import (
    DataConfig,
    EmbeddingConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    load_train_config,
)
from psad_tf.data.batches import ListDataset
from psad_tf.data.encoder import FeatureEncoder
from psad_tf.data.list_folder import load_encoder
from psad_tf.metrics import mean_metrics, per_list_metrics

LAMBDAMART = "lambdamart"
BASELINES = (LAMBDAMART, *NEURAL_BASELINES)
PER_LIST = "ndcg@10"

# What a result depends on besides its configuration and data.
_SHARED_CODE = (
    *(f"layers/{name}.py" for name in ("attention", "dropout", "embedding", "mlp")),
    *(f"{name}.py" for name in ("losses/*", "metrics/*", "data/parsing", "data/encoder", "data/batches")),
    "decoding/*.py",
    "training/optimizer.py",
)
BASELINE_CODE = (*_SHARED_CODE, "baselines/*.py")
PSAD_CODE = (*_SHARED_CODE, "training/trainer.py", "layers/*.py", "models/*.py")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of the search that every neural baseline goes through.

    Args:
        learning_rate: Of the dense weights.
        embedding_learning_rate: Of the embedding tables.
        dropout: Of hidden values.
        embedding_dropout: Of whole embeddings.
        weight_decay: Decoupled.
        decay_epochs: Epochs over which the rates fall to 0, and the most epochs there are; 0 keeps the
            rates constant.
    """

    learning_rate: float
    embedding_learning_rate: float
    dropout: float
    embedding_dropout: float
    weight_decay: float
    decay_epochs: int = 0

    def config(self, base: TrainConfig, lists: int) -> TrainConfig:
        """`base` with these settings, for `lists` training lists."""
        model = dataclasses.replace(
            base.model,
            dropout_rate=self.dropout,
            embedding=EmbeddingConfig(dropout_rate=self.embedding_dropout),
        )
        optimizer = dataclasses.replace(
            base.optimizer,
            learning_rate=self.learning_rate,
            embedding_learning_rate=self.embedding_learning_rate,
            weight_decay=self.weight_decay,
            decay_steps=self.decay_epochs * (lists // base.data.batch_size),
        )
        epochs = self.decay_epochs or base.epochs
        return dataclasses.replace(base, model=model, optimizer=optimizer, epochs=epochs)


SEARCH = (
    Trial(1e-3, 1e-4, 0.2, 0.2, 0.0),
    Trial(1e-3, 1e-3, 0.2, 0.2, 0.0),
    Trial(3e-4, 3e-5, 0.4, 0.4, 0.01),
    Trial(1e-3, 1e-5, 0.2, 0.0, 0.02, decay_epochs=6),  # PSAD's own on MovieLens
)
LAMBDAMART_SEARCH = (
    LambdaMARTConfig(num_leaves=31, learning_rate=0.05, min_data_in_leaf=20),
    LambdaMARTConfig(num_leaves=63, learning_rate=0.03, min_data_in_leaf=50),
    LambdaMARTConfig(num_leaves=15, learning_rate=0.03, min_data_in_leaf=100),
    LambdaMARTConfig(num_leaves=7, learning_rate=0.05, min_data_in_leaf=100),
)


def baseline_base(list_size: int) -> TrainConfig:
    """What the trials are applied to: sizes, epochs and patience of every neural baseline."""
    model = dataclasses.replace(
        ModelConfig(),
        teacher=dataclasses.replace(ModelConfig().teacher, slots=list_size, block_size=1),
        student=dataclasses.replace(ModelConfig().student, hidden_dims=(128, 64)),
    )
    return TrainConfig(
        model=model,
        optimizer=OptimizerConfig(),
        data=DataConfig(list_sizes=(list_size,)),
        epochs=30,
        patience=3,
        jit_compile=False,
    )


def psad_config(path: str) -> TrainConfig:
    """PSAD's configuration of a data set, without XLA.

    The weights are the same up to rounding, and many short runs on a CPU would spend half of their time
    compiling.
    """
    return dataclasses.replace(load_train_config(path), jit_compile=False)


def with_block_size(config: TrainConfig, block_size: int) -> TrainConfig:
    """The same configuration with another K."""
    teacher = dataclasses.replace(config.model.teacher, block_size=block_size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, teacher=teacher))


class Runner:
    """Trains and evaluates models on one folder of lists, remembering what is done.

    A record is {"valid": {model: NDCG@10}, "metrics": {model: {metric: mean over lists}},
    "per_list": {model: [NDCG@10 of each list, None without a positive]}, "best_epoch", "epochs",
    "seconds"}; a search's record has `valid` alone, since test lists are not looked at then.

    Args:
        lists_dir: What `psad preprocess` wrote.
        store: Finished records.
        work_dir: Where PSAD's run folders go.
        list_size: Padded size of the lists.
    """

    def __init__(
        self,
        lists_dir: str,
        store: ResultStore,
        work_dir: str,
        list_size: int = 20,
    ) -> None:
        self.lists_dir = lists_dir
        self.store = store
        self.work_dir = work_dir
        self.list_size = list_size
        self.data = data_fingerprint(lists_dir)
        self.baseline_code = code_fingerprint(BASELINE_CODE)
        self.psad_code = code_fingerprint(PSAD_CODE)
        self.encoder: FeatureEncoder = load_encoder(lists_dir)
        self._lists: dict[str, ListDataset] = {}

    def untrained(self) -> dict[str, Any]:
        """The record of `initial`."""
        key = {"model": "untrained", "data": self.data}
        return self.store.result(key, lambda: self._evaluated(lambda batch: {}, compiled=False))

    def neural(self, name: str, config: TrainConfig, test: bool = True) -> dict[str, Any]:
        """A neural baseline's record, under the model name `model`."""
        key = self._key(name, config, test, self.baseline_code)
        return self.store.result(key, lambda: self._train_neural(name, config, test))

    def lambdamart(self, config: LambdaMARTConfig, test: bool = True) -> dict[str, Any]:
        """LambdaMART's record, under the model name `model`."""
        key = self._key(LAMBDAMART, config, test, self.baseline_code)
        return self.store.result(key, lambda: self._train_lambdamart(config, test))

    def psad(self, config: TrainConfig, test: bool = True) -> dict[str, Any]:
        """PSAD's record, with the models `student` and `teacher`."""
        key = self._key("psad", config, test, self.psad_code)
        return self.store.result(key, lambda: self._train_psad(config, test))

    def _key(self, name: str, config: Any, test: bool, code: str) -> dict[str, Any]:
        return {"model": name, "config": config, "data": self.data, "code": code, "test": test}

    def _train_neural(self, name: str, config: TrainConfig, test: bool) -> dict[str, Any]:
        tf.keras.backend.clear_session()
        tf.keras.utils.set_random_seed(config.seed)
        model = NEURAL_BASELINES[name](self.encoder.declaration, self.encoder.vocabulary_sizes, config)
        run = train_baseline(model, self.lists("train"), self.lists("valid"))
        record: dict[str, Any] = {
            "valid": {"model": run.valid[PER_LIST]},
            "best_epoch": run.best_epoch,
            "epochs": run.epochs,
            "seconds": round(run.seconds, 1),
        }
        return {**record, **self._evaluated(lambda batch: {"model": model.rank(batch)})} if test else record

    def _train_lambdamart(self, config: LambdaMARTConfig, test: bool) -> dict[str, Any]:
        started = time.perf_counter()
        model = LambdaMART(self.encoder.declaration, self.encoder.vocabulary_sizes, config)
        model.fit(self.lists("train").batches(), self.lists("valid").batches())
        seconds = time.perf_counter() - started
        valid = self._values(lambda batch: {"model": model.rank(batch)}, "valid", compiled=False)
        record: dict[str, Any] = {
            "valid": {"model": mean_metrics(valid["model"])[PER_LIST]},
            "best_epoch": model.booster.best_iteration,
            "epochs": model.booster.num_trees(),
            "seconds": round(seconds, 1),
        }
        if test:
            record |= self._evaluated(lambda batch: {"model": model.rank(batch)}, compiled=False)
        return record

    def _train_psad(self, config: TrainConfig, test: bool) -> dict[str, Any]:
        from psad_tf.training.run_folder import load_psad
        from psad_tf.training.trainer import train

        tf.keras.backend.clear_session()
        started = time.perf_counter()
        run_dir = os.path.join(
            self.work_dir, "psad", fingerprint(self._key("psad", config, True, self.psad_code))
        )
        if not os.path.isdir(run_dir):
            resume = os.path.isfile(os.path.join(f"{run_dir}.partial", "history.json"))
            train(self.lists_dir, run_dir, config, resume=resume, overwrite=not resume, verbose=False)
        facts = read_json(os.path.join(run_dir, "metrics.json"), {})
        _, model, _ = load_psad(run_dir)

        def rank(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            ranked = model.rank(batch)
            return {name: ranked[name] for name in ("student", "teacher")}

        valid = self._values(rank, "valid")
        record: dict[str, Any] = {
            "valid": {name: mean_metrics(values)[PER_LIST] for name, values in valid.items()},
            "best_epoch": facts["best_epoch"],
            "epochs": facts["epochs"],
            "seconds": round(time.perf_counter() - started, 1),
            "run_dir": run_dir,
        }
        return {**record, **self._evaluated(rank)} if test else record

    def history_lengths(self) -> np.ndarray:
        """Past interactions that a model sees of each test list's user, int64 [lists]."""
        return np.concatenate(
            [batch["history_mask"].numpy().sum(1) for batch in self.lists("test").batches()]
        )

    @property
    def training_lists(self) -> int:
        """Number of training lists."""
        return self.lists("train").count

    def lists(self, split: str) -> ListDataset:
        """The lists of one split, kept in memory."""
        if split not in self._lists:
            config = DataConfig(list_sizes=(self.list_size,))
            self._lists[split] = ListDataset(self.lists_dir, split, self.encoder, config)
        return self._lists[split]

    def _evaluated(self, rank: Callable[..., Mapping[str, Any]], compiled: bool = True) -> dict[str, Any]:
        values = self._values(rank, "test", compiled, initial=True)
        return {
            "metrics": {name: _means(each) for name, each in values.items()},
            "per_list": {
                name: [None if np.isnan(value) else round(float(value), 6) for value in each[PER_LIST]]
                for name, each in values.items()
            },
        }

    def _values(
        self,
        rank: Callable[..., Mapping[str, Any]],
        split: str,
        compiled: bool = True,
        initial: bool = False,
    ) -> dict[str, dict[str, np.ndarray]]:
        """{model: {metric: a value a list}} of a split."""
        ranked = tf.function(rank, reduce_retracing=False, autograph=False) if compiled else rank
        collected: dict[str, dict[str, list[np.ndarray]]] = {}
        for batch in self.lists(split).batches():
            labels = batch["labels"].numpy()
            shown = batch["shown_position"].numpy() >= 0
            scores = {name: np.asarray(each) for name, each in ranked(batch).items()}
            if initial:
                scores["initial"] = -batch["initial_rank"].numpy().astype(np.float64)
            for name, each in scores.items():
                for metric, values in per_list_metrics(each, labels, where=shown).items():
                    collected.setdefault(name, {}).setdefault(metric, []).append(values)
        return {
            name: {metric: np.concatenate(parts) for metric, parts in metrics.items()}
            for name, metrics in collected.items()
        }


def _means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.nanmean(each)) for name, each in values.items()}
