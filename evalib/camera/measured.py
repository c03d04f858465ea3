"""What a few measured distances tell of all others.

In a place that it never saw, a network's depth is off by one factor for the most part, and by
others from wall to wall. So the error of a measured point is taken for a sample of a Gaussian
process over the picture: one part is the same everywhere, one fades with the distance from the
point. It is the error of logits of depth: near by, adding to them multiplies, and what is as far as
the network can tell stays as far.
Source: Rasmussen & Williams 2006, equation 2.25. Constants chosen on unseen backgrounds.
"""

import numpy as np

EVERYWHERE, HERE = 0.4, 0.3  # standard deviations of both parts
REACH = 0.2  # of the long side, over which the second fades
NOISE = 0.1  # of a measurement, and of a pixel


def correction(error: np.ndarray, at: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) float32, what to add to the logits of a picture.

    Input:
        error: (n,) true less seen logit of each point.
        at:    (n, 2), where it is: x, y in pixels of that picture, of their corners.
        size:  h, w.
    """
    everywhere = max(EVERYWHERE, abs(error.mean()))  # a world of another size is off by one factor
    rows, columns = np.indices(size) + 0.5
    pixels = np.stack([columns.ravel(), rows.ravel()], 1)  # (h w, 2)

    def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        apart = np.linalg.norm(one[:, None] - other[None], axis=2) / (REACH * max(size))
        return everywhere**2 + HERE**2 * np.exp(-(apart**2) / 2)

    known = alike(at, at) + NOISE**2 * np.eye(len(at))
    return (alike(pixels, at) @ np.linalg.solve(known, error)).reshape(size).astype(np.float32)
