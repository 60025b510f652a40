"""The other frameworks stand beside verl's environment, not in it: TRL >= 1.13 in it stops verl's FSDP workers.

`make install` puts them into the folder `frameworks` of the environment. They are for this process alone: PYTHONPATH
does not name them, so a process that a test starts does not see them unless the test says so.
"""

import sys
from pathlib import Path

FRAMEWORKS = Path(sys.prefix) / "frameworks"

sys.path.append(str(FRAMEWORKS))
