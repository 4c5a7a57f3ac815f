"""Let a frozen program be a guardian: when it is started as one, none of its own code runs."""

import json
import os
import sys

setattr(sys, "patchify_guardian", True)  # says that this hook is there
told = os.environ.pop("PATCHIFY_GUARDIAN", None)
if told is not None:
    from patchify.client.guardian import main

    main(json.loads(told))
    sys.exit()
