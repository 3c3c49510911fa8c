"""``python -m speechbrain_ext`` is the command ``speechbrain-ext``."""

import sys

from speechbrain_ext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
