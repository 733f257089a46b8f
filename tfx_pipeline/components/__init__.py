"""TFX components of the library's own; the others in the pipeline are stock."""
