"""Feature declarations as people write them by hand."""

from __future__ import annotations

import pytest

from psad_tf.errors import InputError
from psad_tf.features import CategoricalFeature, FeatureDeclaration


def test_a_declaration_may_leave_out_every_part():
    declared = FeatureDeclaration.from_dict({"version": 1, "candidate_dense": [{"name": "initial_score"}]})
    assert declared.candidate_categorical == (CategoricalFeature("item_id"),)
    assert declared.names == ("item_id", "initial_score", "history_item_id", "history_age_seconds")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([], "f: expected an object, got list"),
        ({}, "f: key 'version' is missing, expected 1"),
        ({"version": 2}, "f: key 'version' is 2, expected 1"),
        ({"version": 1, "candidates_dense": []}, "f: unknown key 'candidates_dense'"),
        ({"version": 1, "history": {"lenght": 5}}, "f: history: unknown key 'lenght'"),
    ],
)
def test_a_misspelt_part_is_named(written, message):
    with pytest.raises(InputError, match="^" + message):
        FeatureDeclaration.from_dict(written, "f")
