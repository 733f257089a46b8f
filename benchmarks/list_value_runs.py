"""One training run on a simulated world, and what its lists are truly worth, as a JSON-ready record.

Every model trains on the same batches with the same optimizer, keeps the weights of the epoch with the least
validation loss (its own training loss, on held-out logs, without dropout; PSAD's is that of its teacher,
which teaches the student) and is judged by the click law alone: the expected clicks on the first `SLOTS`
slots of its lists, over those of the greedy oracle's.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.common import RESULTS_DIR, WORK_DIR, ResultStore, code_fingerprint, fingerprint
from benchmarks.runs import BASELINE_CODE, LAMBDAMART, PSAD_CODE
from psad_tf.baselines import NEURAL_BASELINES
from psad_tf.baselines.lambdamart import LambdaMART, LambdaMARTConfig
from psad_tf.config import DataConfig, TrainConfig
from psad_tf.datasets.simulator import PRESETS, SimulatorConfig, headroom
from psad_tf.datasets.simulator.encoded import EncodedLists, EncodedWorld
from psad_tf.datasets.simulator.oracles import true_values
from psad_tf.layers.dropout import hashed_uniform
from psad_tf.models.psad import PSAD
from psad_tf.training.optimizer import make_optimizer
from psad_tf.training.run_folder import empty_batch

SLOTS = 6
EVALUATED = 20_000  # test lists
VALIDATED = 20_000  # validation lists
LAMBDAMART_TRAINED = 200_000  # lists: more do not fit in memory as features
SIMULATOR_CODE = ("datasets/simulator/*.py",)
OWN_CODE = ("../benchmarks/list_value_runs.py",)

Batch = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A world and its logs.

    Args:
        world: Name of a preset.
        lists: Lists logged; eight tenths train, one validates, one tests.
        shown: `all`, or how many of the candidates each list shows.
    """

    world: str
    lists: int
    shown: str

    def __str__(self) -> str:
        return f"{self.world}, {self.lists:,} lists, {self.shown} shown"

    @property
    def config(self) -> SimulatorConfig:
        """The simulator's configuration."""
        shown = 0 if self.shown == "all" else int(self.shown)
        return dataclasses.replace(PRESETS[self.world], lists=self.lists, shown=shown)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark that trains on simulated worlds."""
    parser.add_argument("--no_xla", action="store_true", help="do not compile train steps with XLA")
    parser.add_argument("--output_dir", default=RESULTS_DIR, help="folder of the results")
    parser.add_argument("--work_dir", default=WORK_DIR, help="folder of finished runs")


class Runs:
    """Trains and judges, remembering what is done.

    Args:
        work_dir: Where finished records are kept, and the value of each test list, a file a record.
        jit_compile: Compile train steps with XLA, but for recurrent networks.
    """

    def __init__(self, work_dir: str, jit_compile: bool = True) -> None:
        self.store = ResultStore(os.path.join(work_dir, "list_value.jsonl"))
        self.folder = os.path.join(work_dir, "list_value")
        self.jit_compile = jit_compile
        self._code = {
            "psad": code_fingerprint((*PSAD_CODE, *SIMULATOR_CODE, *OWN_CODE)),
            "baseline": code_fingerprint((*BASELINE_CODE, *SIMULATOR_CODE, *OWN_CODE)),
            "oracles": code_fingerprint(SIMULATOR_CODE),
        }
        self._source: tuple[Setting, EncodedWorld] | None = None

    def oracles(self, setting: Setting) -> dict[str, Any]:
        """The record of the rankings that need no training."""
        key = {"model": "oracles", "setting": setting, "code": self._code["oracles"]}
        return self._record(key, lambda: self._judge_oracles(setting))

    def psad(self, setting: Setting, config: TrainConfig, test: bool = True) -> dict[str, Any]:
        """PSAD's record, with the models `teacher` and `student`."""
        key = self._key("psad", setting, config, self._code["psad"], test)
        return self._record(key, lambda: self._train_psad(setting, config, test))

    def baseline(
        self, name: str, setting: Setting, config: TrainConfig | LambdaMARTConfig, test: bool = True
    ) -> dict[str, Any]:
        """A baseline's record, under its name."""
        key = self._key(name, setting, config, self._code["baseline"], test)
        if isinstance(config, LambdaMARTConfig):
            return self._record(key, lambda: self._train_lambdamart(setting, config, test))
        return self._record(key, lambda: self._train_baseline(name, setting, config, test))

    def values(self, record: Mapping[str, Any], model: str) -> np.ndarray:
        """The true value of each test list of a record's model: float32 [lists]."""
        with np.load(os.path.join(self.folder, record["values"])) as file:
            return file[model]

    def steps(self, setting: Setting, batch_size: int) -> int:
        """Steps of an epoch."""
        rounds = setting.config.lists_per_user
        return setting.lists * (rounds - 2 * max(1, rounds // 10)) // rounds // batch_size

    def _key(self, name: str, setting: Setting, config: Any, code: str, test: bool) -> dict[str, Any]:
        return {"model": name, "setting": setting, "config": config, "code": code, "test": test}

    def _record(
        self, key: Any, make: Callable[[], tuple[dict[str, Any], dict[str, np.ndarray]]]
    ) -> dict[str, Any]:
        def made() -> dict[str, Any]:
            record, values = make()
            values = {
                name: each.astype(np.int8 if name.endswith("_order") else np.float32)
                for name, each in values.items()
            }
            if values:
                record["values"] = f"{fingerprint(key)}.npz"
                os.makedirs(self.folder, exist_ok=True)
                path = os.path.join(self.folder, record["values"])
                with open(f"{path}.partial", "wb") as file:
                    np.savez_compressed(file, **values)
                os.replace(f"{path}.partial", path)
            return record

        return self.store.result(key, made)

    def source(self, setting: Setting) -> EncodedWorld:
        """The logs of a setting; those of the last one are kept."""
        if self._source is None or self._source[0] != setting:
            self._source = None  # frees the memory before the next is made
            self._source = setting, EncodedWorld(setting.config)
        return self._source[1]

    def _judge_oracles(self, setting: Setting) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        source = self.source(setting)
        lists = source.lists["test"]
        users = source.world.users_numbered(lists.user[:EVALUATED])
        return {}, headroom(source.world, users, lists.items[:EVALUATED].astype(np.int64), SLOTS)

    def trained_psad(self, setting: Setting, config: TrainConfig) -> PSAD:
        """A trained model itself, made anew."""
        return self._fitted_psad(setting, config)[0]

    def _fitted_psad(self, setting: Setting, config: TrainConfig) -> tuple[PSAD, dict[str, Any]]:
        tutor, before = None, 0.0
        if config.distillation.mode == "offline":
            alone = {"distillation": {"mode": "online", "source": "none"}}
            tutor, record = self._fitted_psad(setting, config.changed(alone))
            before = record["seconds"]
        source = self._prepare(setting, config)
        model = PSAD(source.declaration, source.vocabulary_sizes, config, tutor)
        model.rank(empty_batch(source.declaration, 1, setting.config.candidates))

        def loss(batch: Batch, ties: tf.Tensor) -> tf.Tensor:
            terms = model.compute_losses(batch, None, ties, tf.constant(config.distillation.weight))
            if tutor is not None:
                return terms["loss"]
            # The terms of the student follow its teacher's changing lists, and say nothing of the epochs.
            return config.loss.value_weight * terms["value"] + config.loss.policy_weight * terms.get(
                "policy", 0.0
            )

        record = self._fit(model, loss, source, config, self.jit_compile)
        return model, {**record, "seconds": record["seconds"] + before}

    def _train_psad(
        self, setting: Setting, config: TrainConfig, test: bool
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        model, record = self._fitted_psad(setting, config)
        if not test:
            return record, {}

        def orders(batch: Batch) -> dict[str, tf.Tensor]:
            generated = model.generate(batch).order[:, :SLOTS]
            return {"teacher": generated, "student": _first(model(batch)["scores"])}

        return record, self._judge(self.source(setting), orders, config.data)

    def _train_baseline(
        self, name: str, setting: Setting, config: TrainConfig, test: bool
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        source = self._prepare(setting, config)
        model = NEURAL_BASELINES[name](source.declaration, source.vocabulary_sizes, config)
        example = empty_batch(source.declaration, 1, setting.config.candidates)
        model(example)
        model.list_loss(example, None, tf.zeros_like(example["labels"]))
        compiled = self.jit_compile and not is_recurrent(model)

        def loss(batch: Batch, ties: tf.Tensor) -> tf.Tensor:
            return model.list_loss(batch, None, ties)

        record = self._fit(model, loss, source, config, compiled)
        if not test:
            return record, {}
        return record, self._judge(source, lambda batch: {name: _first(model.rank(batch))}, config.data)

    def _train_lambdamart(
        self, setting: Setting, config: LambdaMARTConfig, test: bool
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        source, started, data = self.source(setting), time.process_time(), DataConfig(batch_size=512)
        model = LambdaMART(source.declaration, source.vocabulary_sizes, config)
        training = source.dataset("train", data).batches().take(LAMBDAMART_TRAINED // data.batch_size)
        valid = source.dataset("valid", data).batches().take(VALIDATED // data.batch_size)
        quality = model.fit(training, valid)
        record: dict[str, Any] = {
            "valid": -quality,
            "epochs": model.booster.num_trees(),
            "best_epoch": model.booster.best_iteration,
            "seconds": round(time.process_time() - started, 1),
        }
        if not test:
            return record, {}

        def orders(batch: Batch) -> dict[str, tf.Tensor]:
            return {LAMBDAMART: _first(tf.constant(model.rank(batch)))}

        return record, self._judge(source, orders, data, compiled=False)

    def _prepare(self, setting: Setting, config: TrainConfig) -> EncodedWorld:
        source = self.source(setting)
        tf.keras.backend.clear_session()
        tf.keras.utils.set_random_seed(config.seed)
        return source

    def _fit(
        self,
        model: tf.keras.Model,
        loss: Callable[[Batch, tf.Tensor], tf.Tensor],
        source: EncodedWorld,
        config: TrainConfig,
        jit_compile: bool,
    ) -> dict[str, Any]:
        """Trains, and leaves the model with the weights of the least validation loss."""
        started = time.process_time()
        model.compile(optimizer=make_optimizer(config.optimizer))
        model.optimizer.build(model.trainable_variables)
        step = tf.function(model.train_step, jit_compile=jit_compile)
        training, validation = (source.dataset(split, config.data) for split in ("train", "valid"))
        check = _validation(loss, validation)
        best, best_epoch, weights, epoch, history = np.inf, 0, model.get_weights(), 0, []
        while epoch < config.epochs and not 0 < config.patience <= epoch - best_epoch:
            for batch in training.training_batches(config.seed, epoch):
                step(batch)
            epoch += 1
            history.append(check())
            if history[-1] < best:
                best, best_epoch, weights = history[-1], epoch, model.get_weights()
        model.set_weights(weights)
        return {
            "valid": float(best),
            "valid_by_epoch": history,
            "epochs": epoch,
            "best_epoch": best_epoch,
            "seconds": round(time.process_time() - started, 1),
        }

    def _judge(
        self,
        source: EncodedWorld,
        orders: Callable[[Batch], Mapping[str, tf.Tensor]],
        data: DataConfig,
        compiled: bool = True,
    ) -> dict[str, np.ndarray]:
        """The true value of each test list, as each model would show it."""
        everyone = dataclasses.replace(data, users="all")
        batches, done = source.dataset("test", everyone).batches(), 0
        ordered = (
            tf.function(orders, input_signature=[batches.element_spec], autograph=False)
            if compiled
            else orders
        )
        collected: dict[str, list[np.ndarray]] = {}
        for batch in batches:
            for name, order in ordered(batch).items():
                collected.setdefault(name, []).append(np.asarray(order))
            done += len(batch["mask"])
            if done >= EVALUATED:
                break
        lists = source.lists["test"]
        users = source.world.users_numbered(lists.user[:EVALUATED])
        items = lists.items[:EVALUATED].astype(np.int64)
        kept = {name: np.concatenate(parts)[: len(items)] for name, parts in collected.items()}
        return {
            **{name: true_values(source.world, users, items, order) for name, order in kept.items()},
            **{f"{name}_order": order for name, order in kept.items()},
        }


def is_recurrent(model: tf.keras.Model) -> bool:
    """Whether XLA takes more memory to compile a train step over 20 candidates than a machine has."""
    return any(isinstance(each, tf.keras.layers.RNN) for each in model.submodules)


def _validation(
    loss: Callable[[Batch, tf.Tensor], tf.Tensor], validation: EncodedLists
) -> Callable[[], float]:
    """The function that gives the mean loss of the validation lists."""
    batches = validation.batches().take(
        max(1, min(validation.count, VALIDATED) // validation.config.batch_size)
    )

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def of_batch(batch: Batch) -> tf.Tensor:
        ties = hashed_uniform(tf.shape(batch["labels"]), tf.constant([0, 0], tf.int32), "ties")
        return loss(batch, ties)

    return lambda: float(np.mean([float(of_batch(batch)) for batch in batches]))


def _first(scores: tf.Tensor) -> tf.Tensor:
    """The candidates at the first slots: int32 [lists, SLOTS]."""
    return tf.argsort(scores, axis=-1, direction="DESCENDING", stable=True)[:, :SLOTS]
