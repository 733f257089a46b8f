"""The upstream stage: a TFRS two-tower model whose score orders the candidate lists.

Data sets of ratings have no logged candidate lists; this model is what stands before the reranker.
It is trained once, on the interactions that belong to the upstream stage and on nothing else.

Each user and each item is a set of tokens: its id and its attributes, `occupation=writer`. With token
embeddings E, token biases c and the mean rating m of the training interactions:

    u = tanh(U mean_{t in user} E[t]),  v = tanh(V mean_{t in item} E[t])    the towers     [dimension]
    b_user = sum_{t in user} c[t],      b_item = sum_{t in item} c[t]        the biases
    retrieval_score = u . v / sqrt(dimension)
    rating_score    = m + b_user + b_item + w . (u * v)

and the loss of a batch, by `tfrs.tasks.Retrieval` and `tfrs.tasks.Ranking`:

    retrieval_weight * in-batch softmax(retrieval_score / temperature), liked pairs only
    + (rating_score - rating)^2 + L2

where w is learnt. The id tokens' biases make it a biased factorization for known users and items; the
attributes carry it over to rare ones. Sources: Yi et al., "Sampling-bias-corrected neural modeling for
large corpus item recommendations" (RecSys 2019) for the in-batch softmax with its correction; Koren et
al., "Matrix factorization techniques for recommender systems" (2009) for the biases; Kula, "Metadata
embeddings for user and item cold-start recommendations" (2015) for sums over tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from psad_tf.errors import InputError

Attributes = Mapping[str, str | float | Sequence[str]]


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """How the upstream model is built and trained.

    Args:
        dimension: Width of the towers.
        liked_at_least: Ratings from here on are positives of the retrieval task.
        retrieval_weight: Weight of the retrieval task's loss against the squared rating error.
        temperature: Temperature of the in-batch softmax.
        bias_l2: L2 of the biases, as a count of observations: a bias seen n times is shrunk by about
            n / (n + bias_l2).
        embedding_l2: L2 of the embeddings, in the same unit.
        learning_rate: Adam's.
        batch_size: Interactions in a step.
        max_epochs: Epochs at most.
        patience: Epochs without a better held-out rating error before training stops.
        held_out: Part of the training interactions that decides the number of epochs; the model is then
            trained anew on all of them for that number.
        seed: Initial weights, held-out part and order of batches follow from it.
    """

    dimension: int = 16
    liked_at_least: float = 4.0
    retrieval_weight: float = 0.1
    temperature: float = 1.0
    bias_l2: float = 5.0
    embedding_l2: float = 1.0
    learning_rate: float = 0.01
    batch_size: int = 256
    max_epochs: int = 60
    patience: int = 5
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed: must be 0 or more, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Interactions as parallel columns.

    Args:
        user_ids: One user id an interaction.
        item_ids: One item id an interaction.
        ratings: One rating an interaction.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    ratings: Sequence[float]


class TokenTable:
    """Every entity (user or item) as a padded row of token numbers.

    Row 0 stands for an unknown entity and token 0 for padding, so an unknown entity has no token.

    Args:
        entities: Entity id -> its attributes; numbers are rounded to whole tokens.
        attributes: Names of the attributes that become tokens; the id is always one.

    Attributes:
        rows: int32 [entities + 1, tokens of the longest].
        size: Number of tokens, padding included.
    """

    def __init__(self, entities: Mapping[str, Attributes], attributes: Sequence[str]) -> None:
        numbers: dict[str, int] = {"": 0}
        rows: list[list[int]] = [[]]
        self._row_of: dict[str, int] = {}
        for entity_id, values in entities.items():
            tokens = [f"id={entity_id}"]
            for name in attributes:
                tokens += [f"{name}={value}" for value in _as_strings(values.get(name, ()))]
            self._row_of[entity_id] = len(rows)
            rows.append([numbers.setdefault(token, len(numbers)) for token in tokens])
        self.size = len(numbers)
        self.rows = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for index, row in enumerate(rows):
            self.rows[index, : len(row)] = row

    def find(self, entity_ids: Sequence[str]) -> np.ndarray:
        """Row numbers of entities, int32 [n]; 0 for an unknown one."""
        return np.fromiter((self._row_of.get(each, 0) for each in entity_ids), np.int32, len(entity_ids))


def _as_strings(value: str | float | Sequence[str]) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, int | float):
        return [str(round(value))]
    return [each for each in value if each]


class Tower(tf.keras.Model):
    """One side of the model: entity rows in, a vector and a bias out.

    Args:
        table: The entities' tokens.
        dimension: Width of the vector.
        embedding_l2: L2 factor on the embeddings and the dense layer.
        bias_l2: L2 factor on the biases.
        seed: Seed of the initial weights.
    """

    def __init__(
        self, table: TokenTable, dimension: int, embedding_l2: float, bias_l2: float, seed: int
    ) -> None:
        super().__init__()
        self._rows = tf.constant(table.rows)
        self._embedding = tf.keras.layers.Embedding(
            table.size,
            dimension,
            embeddings_initializer=tf.keras.initializers.RandomNormal(stddev=0.5, seed=seed),
            embeddings_regularizer=tf.keras.regularizers.L2(embedding_l2),
        )
        self._bias = tf.keras.layers.Embedding(
            table.size,
            1,
            embeddings_initializer="zeros",
            embeddings_regularizer=tf.keras.regularizers.L2(bias_l2),
        )
        self._dense = tf.keras.layers.Dense(
            dimension,
            activation="tanh",
            kernel_initializer=tf.keras.initializers.GlorotUniform(seed=seed + 1),
            kernel_regularizer=tf.keras.regularizers.L2(embedding_l2),
        )

    def call(self, entities: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Entity rows [batch] to vectors [batch, dimension] and biases [batch]."""
        tokens = tf.gather(self._rows, entities)  # [batch, tokens]
        present = tf.cast(tokens > 0, tf.float32)[..., tf.newaxis]
        count = tf.maximum(tf.reduce_sum(present, axis=1), 1.0)
        mean = tf.reduce_sum(self._embedding(tokens) * present, axis=1) / count
        bias = tf.reduce_sum(self._bias(tokens) * present, axis=[1, 2])
        return self._dense(mean), bias


class TwoTowerModel(tfrs.Model):
    """Two towers trained by a retrieval task and a rating task together; formulas at the module's top.

    Args:
        users: The users' tokens.
        items: The items' tokens.
        item_probability: float [items + 1], each item's share of the training interactions, the chance
            that it is an in-batch negative.
        mean_rating: m.
        observations: Number of training interactions, which turns the L2 counts into weights.
        config: The rest.
    """

    def __init__(
        self,
        users: TokenTable,
        items: TokenTable,
        item_probability: np.ndarray,
        mean_rating: float,
        observations: int,
        config: RetrievalConfig,
    ) -> None:
        super().__init__()
        embedding_l2, bias_l2 = config.embedding_l2 / observations, config.bias_l2 / observations
        self.user_tower = Tower(users, config.dimension, embedding_l2, bias_l2, 4 * config.seed)
        self.item_tower = Tower(items, config.dimension, embedding_l2, bias_l2, 4 * config.seed + 2)
        self._interaction = self.add_weight("interaction", (config.dimension,), initializer="zeros")
        self._item_probability = tf.constant(item_probability, tf.float32)
        self._mean_rating = mean_rating
        self._config = config
        self._retrieval = tfrs.tasks.Retrieval(
            temperature=config.temperature, remove_accidental_hits=True, name="retrieval"
        )
        self._rating = tfrs.tasks.Ranking(
            loss=tf.keras.losses.MeanSquaredError(),
            metrics=[tf.keras.metrics.MeanSquaredError(name="rating_mse")],
            name="rating",
        )

    def call(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Rows `user` and `item` [batch] to both scores [batch] and both towers [batch, dimension]."""
        user, user_bias = self.user_tower(inputs["user"])
        item, item_bias = self.item_tower(inputs["item"])
        product = user * item
        rating = self._mean_rating + user_bias + item_bias + tf.linalg.matvec(product, self._interaction)
        retrieval = tf.reduce_sum(product, axis=1) / self._config.dimension**0.5
        return {"user": user, "item": item, "retrieval_score": retrieval, "rating_score": rating}

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The joint loss of a batch with `user`, `item` and `rating`, each [batch]; a scalar."""
        outputs = self(inputs)
        liked = tf.cast(inputs["rating"] >= self._config.liked_at_least, tf.float32)
        retrieval = self._retrieval(
            outputs["user"],
            outputs["item"] / self._config.dimension**0.5,
            sample_weight=liked,
            candidate_sampling_probability=tf.gather(self._item_probability, inputs["item"]),
            candidate_ids=inputs["item"],
            compute_metrics=not training,
        ) / tf.maximum(tf.reduce_sum(liked), 1.0)
        rating = self._rating(
            labels=inputs["rating"], predictions=outputs["rating_score"], compute_metrics=not training
        )
        return self._config.retrieval_weight * retrieval + rating


@dataclasses.dataclass(frozen=True)
class Scores:
    """Both scores of (user, item) pairs, float32 [pairs] each; lists are ordered by `rating`."""

    retrieval: np.ndarray
    rating: np.ndarray


class RetrievalModel:
    """The trained upstream stage.

    Attributes:
        epochs: Epochs it was trained for.
        held_out_rmse: Root mean squared rating error on the held-out part, at that epoch.
    """

    def __init__(
        self, users: TokenTable, items: TokenTable, model: TwoTowerModel, epochs: int, held_out_rmse: float
    ) -> None:
        self._users, self._items, self._model = users, items, model
        self.epochs = epochs
        self.held_out_rmse = held_out_rmse

    def score(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> Scores:
        """Scores pairs; an unknown user or item counts with its bias and vector at their defaults."""
        inputs = {"user": self._users.find(user_ids), "item": self._items.find(item_ids)}
        dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(8192)
        outputs = [self._model(batch) for batch in dataset]
        empty = np.zeros(0, np.float32)
        return Scores(
            retrieval=np.concatenate([empty, *(each["retrieval_score"].numpy() for each in outputs)]),
            rating=np.concatenate([empty, *(each["rating_score"].numpy() for each in outputs)]),
        )


def train_retrieval(
    ratings: Ratings,
    users: Mapping[str, Attributes],
    items: Mapping[str, Attributes],
    user_attributes: Sequence[str] = (),
    item_attributes: Sequence[str] = (),
    config: RetrievalConfig | None = None,
) -> RetrievalModel:
    """Trains the upstream model on `ratings` and nothing else.

    Args:
        ratings: The upstream stage's interactions.
        users: User id -> attributes.
        items: Item id -> attributes.
        user_attributes: Names of the user attributes used.
        item_attributes: Names of the item attributes used.
        config: How to train; by default `RetrievalConfig()`.

    Returns:
        The model; the same arguments give the same scores.

    Raises:
        InputError: There are fewer than ten interactions.
    """
    config = config or RetrievalConfig()
    if len(ratings.ratings) < 10:
        raise InputError(
            f"upstream stage: {len(ratings.ratings)} interactions to train on, at least 10 needed"
        )
    user_table, item_table = TokenTable(users, user_attributes), TokenTable(items, item_attributes)
    columns = {
        "user": user_table.find(ratings.user_ids),
        "item": item_table.find(ratings.item_ids),
        "rating": np.asarray(ratings.ratings, np.float32),
    }
    order = np.random.default_rng(config.seed).permutation(len(columns["rating"]))
    cut = max(1, round(config.held_out * len(order)))
    held_out, rest = (
        {name: column[part] for name, column in columns.items()} for part in (order[:cut], order[cut:])
    )
    first = _new_model(user_table, item_table, rest, config)
    stopping = tf.keras.callbacks.EarlyStopping("val_rating_mse", mode="min", patience=config.patience)
    history = first.fit(
        _batches(rest, config),
        validation_data=_batches(held_out, config),
        epochs=config.max_epochs,
        callbacks=[stopping],
        verbose=0,
    ).history["val_rating_mse"]
    epochs = int(np.argmin(history)) + 1
    model = _new_model(user_table, item_table, columns, config)
    model.fit(_batches(columns, config), epochs=epochs, verbose=0)
    return RetrievalModel(user_table, item_table, model, epochs, float(min(history)) ** 0.5)


def _new_model(
    users: TokenTable, items: TokenTable, columns: Mapping[str, np.ndarray], config: RetrievalConfig
) -> TwoTowerModel:
    counts = np.bincount(columns["item"], minlength=len(items.rows))
    probability = np.maximum(counts, 1.0) / counts.sum()
    mean = float(columns["rating"].mean())
    model = TwoTowerModel(users, items, probability, mean, len(columns["rating"]), config)
    model.compile(tf.keras.optimizers.Adam(config.learning_rate))
    return model


def _batches(columns: Mapping[str, np.ndarray], config: RetrievalConfig) -> tf.data.Dataset:
    """Columns in batches, in a new order every epoch that follows from the seed."""
    tensors = {name: tf.constant(column) for name, column in columns.items()}
    size = len(columns["rating"])
    order = tf.data.Dataset.range(size).shuffle(size, seed=config.seed, reshuffle_each_iteration=True)
    batches = order.batch(config.batch_size)
    return batches.map(lambda rows: {name: tf.gather(column, rows) for name, column in tensors.items()})
