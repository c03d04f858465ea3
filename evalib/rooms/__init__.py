"""The built-in pictures: ray-traced rooms, yards and streets with something new in them.

`render(ids, size)` is the door. Behind it: `places` (furnished by `furniture`) and `objects` are
put together by `builder`, `staging` says who stands where, `rays` and `surfaces` tell what a pixel
sees, `backdrop` keeps what an empty place needs only once, `shots` draws the rest, and `sensor`
photographs it.
"""

from evalib.rooms.shots import render, render_backgrounds
from evalib.rooms.staging import EMPTY_SHARE, empty

__all__ = ["EMPTY_SHARE", "empty", "render", "render_backgrounds"]
