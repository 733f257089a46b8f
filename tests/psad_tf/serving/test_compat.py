from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf

from psad_tf.serving.server.compat import session_callable


def test_the_private_callable_does_what_the_server_counts_on() -> None:
    """Fails when a newer TensorFlow takes `Session._make_callable_from_options` away or changes it."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None])
        doubled, shifted = 2.0 * x, x + 1.0
        run = session_callable(session, [x], [doubled, shifted])
        for values in ([1.0], [1.0, 2.0]):
            found = run(np.array(values, np.float32))
            np.testing.assert_array_equal(found[0], 2.0 * np.array(values))
            np.testing.assert_array_equal(found[1], np.array(values) + 1.0)
        checked = tf.debugging.Assert(x[0] > 0.0, ["not positive"])
        with tf.control_dependencies([checked]):
            guarded = tf.identity(x)
        with pytest.raises(tf.errors.InvalidArgumentError, match="not positive"):
            session_callable(session, [x], [guarded])(np.array([-1.0], np.float32))
        answers: list[float] = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(run(np.array([n], np.float32))[0][0]))
            for n in (1.0, 2.0, 3.0)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [2.0, 4.0, 6.0]


def test_threads_of_tensorflow_servings_flag_give_the_same_values() -> None:
    """`--tensorflow_inter_op_parallelism=-1` becomes this setting; `session_callable` can do without."""
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1)
    found = []
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None])
        thread = tf.numpy_function(threading.get_ident, [], tf.int64)
        for in_callers_thread in (True, False):
            run = session_callable(session, [x], [2.0 * x, thread], in_callers_thread)
            found.append([values.tolist() for values in run(np.array([3.0], np.float32))])
    assert found == [[[6.0], threading.get_ident()]] * 2
