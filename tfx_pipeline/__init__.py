"""The TFX pipeline: raw logs to a pushed model, with validation, blessing and lineage.

    from psad_tf.tfx_pipeline.pipeline import create_pipeline
    from psad_tf.tfx_pipeline.settings import PipelineSettings

    pipeline = create_pipeline(PipelineSettings(...))

TFX is not among the runtime packages; `psad_tf.tfx_pipeline.dependencies.require_tfx` says so in one line.
"""
