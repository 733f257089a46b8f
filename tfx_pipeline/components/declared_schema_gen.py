"""DeclaredSchemaGen: the schema that the feature declaration and the data rules imply.

A SchemaGen infers a schema from the data at hand, and with it their mistakes; here the declaration is the
authority, so nothing is inferred.
"""

import json
import os

from google.protobuf import text_format
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Schema

from psad_tf.features import FeatureDeclaration
from psad_tf.tfx_pipeline.rules import DataRules
from psad_tf.tfx_pipeline.schema import candidate_schema


@component
def DeclaredSchemaGen(
    schema: OutputArtifact[Schema], declaration: Parameter[str], rules: Parameter[str]
) -> None:
    """Writes `schema.pbtxt`.

    Args:
        schema: The output.
        declaration: JSON of the feature declaration.
        rules: JSON of the data rules.
    """
    made = candidate_schema(
        FeatureDeclaration.from_dict(json.loads(declaration)), DataRules.from_dict(json.loads(rules))
    )
    with open(os.path.join(schema.uri, "schema.pbtxt"), "w", encoding="utf-8") as file:
        file.write(text_format.MessageToString(made))
