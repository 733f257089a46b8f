"""The two-version model of the server's tests."""

from tests.psad_tf.serving.conftest import models, server  # noqa: F401
