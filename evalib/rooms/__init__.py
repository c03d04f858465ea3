"""The built-in pictures: ray-traced rooms, yards and streets with something new in them.

`render(ids, size)` is the door. What there is: `places` (`indoors`, `outdoors`, `tabletops`), with
`furniture` and `objects` (a new kind of thing goes there), put together from simple parts by
`builder`; `staging` says who stands where.
What is seen of it: `rays` find the part behind a pixel, `surfaces` its colour, `shadows` what keeps
light from it; `backdrop` lights an empty place, once; `shots` draws what is new; `sensor` makes a
photograph of light: exposure, noise, JPEG. All of it is numpy and scalar code that `kernels` has
compiled, for one core and without torch: who wants more samples starts more processes.
"""

from evalib.rooms.shots import render, render_backgrounds
from evalib.rooms.staging import EMPTY_SHARE, empty

__all__ = ["EMPTY_SHARE", "empty", "render", "render_backgrounds"]
