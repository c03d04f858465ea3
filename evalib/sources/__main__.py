"""`python -m evalib.sources FOLDER` pastes photographs together for another process."""

import sys
from pathlib import Path

from evalib import worker
from evalib.sources.photos import Photos

folder = Path(sys.argv[1])
worker.serve(Photos(folder / "bg", folder / "fg"))
