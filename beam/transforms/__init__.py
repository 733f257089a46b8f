"""The steps of the Beam job, one a module, each a composite transform that is tested alone.

Where a step takes them, `folder` is the output folder, that every worker can reach, `declaration` the feature
declaration and `options` the job's options, with `latest_time` set.
"""
