"""`python -m evalib.rooms` renders for another process."""

from evalib import rooms, worker

worker.serve(rooms)
