"""`python -m psad_tf.cli`, the same as `psad`."""

import sys

from psad_tf.cli.main import main

sys.exit(main())
