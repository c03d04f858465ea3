"""A camera that moved between its two shots: the empty scene as it would see it from where it is.

Points that look alike in both shots (SIFT, Lowe 2004) tell how it moved, where enough of them agree
(RANSAC, Fischler & Bolles 1981): on a shift, a turn and a zoom, four numbers that a few points fix
well; or on the eight of a homography, for a camera that was tilted, where clearly more of them do.
What is new has points, too, but they agree with nothing. A camera that went somewhere else sees
near things move past far ones: no homography undoes that.
"""

import numpy as np

LONG_SIDE = 800  # pixels in which points are looked for
N_POINTS = 2000
FAINT = 0.01  # contrast of a point: a quarter of SIFT's own, for plain walls
UNLIKE = 0.8  # a point's best match is so much nearer than its second best, or it is none
NEAR = 0.15  # of the long side: a camera that was moved farther is at another place
MISS = 1.5  # pixels by which points that agree may differ
ENOUGH = 12  # points that agree; two shots of different rooms have none
TILTED = 1.1  # times as many points that agree


def aligned(bg: np.ndarray, img: np.ndarray) -> np.ndarray:
    """`bg` as seen from where `img` was taken; what it does not show is taken from `img`, where
    then nothing differs, so that nothing is new. (H, W, 3) uint8, all three.

    Raises: ValueError: `motion` cannot tell.
    """
    return moved(bg, motion(bg, img), img)


def motion(bg: np.ndarray, img: np.ndarray) -> np.ndarray:
    """How the camera moved: a homography (3, 3) from pixels (x, y, 1) of `bg` to those of `img`,
    (H, W, 3) uint8 both.

    Raises: ValueError: the photographs differ in size, or too few of their points agree.
    """
    import cv2  # here, because few commands need it

    if bg.shape != img.shape:
        raise ValueError(f"bg is {bg.shape}, img is {img.shape}, needed one size: resize one")
    scale = min(1, LONG_SIDE / max(bg.shape))
    here, there = _points(bg, scale), _points(img, scale)
    here, there = _alike(here, there, NEAR * scale * max(bg.shape))
    n_agree = 0
    if len(here) >= ENOUGH:
        four, agree = cv2.estimateAffinePartial2D(
            here, there, ransacReprojThreshold=MISS, maxIters=5000
        )
        if four is not None:
            matrix = np.vstack([four, [0, 0, 1]])
            n_agree = int(agree.sum())
        eight, agree = cv2.findHomography(here, there, cv2.USAC_MAGSAC, MISS, maxIters=5000)
        if eight is not None and agree.sum() > TILTED * n_agree:
            matrix = eight
            n_agree = int(agree.sum())
    if n_agree < ENOUGH:
        text = f"{n_agree} points of both photographs agree on how the camera moved"
        todo = "take both from one place, with more in view than plain walls"
        raise ValueError(f"{text}, needed {ENOUGH}: {todo}")
    half = scale / 2 - 0.5  # the middle of the first pixel moves, too
    small = np.array([[scale, 0, half], [0, scale, half], [0, 0, 1]])
    return np.linalg.inv(small) @ matrix @ small


def moved(picture: np.ndarray, how: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """`picture`, (H, W[, 3]), with each pixel where `motion` says, and `outside` around it; a map
    of float32, such as depth, by the nearest pixel."""
    import cv2

    size = picture.shape[1::-1]
    nearest = picture.dtype == np.float32  # between two depths lies nothing
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    inside = cv2.warpPerspective(np.ones(picture.shape[:2], np.float32), how, size) > 0.99
    there = cv2.warpPerspective(picture, how, size, flags=way)
    return np.where(inside if picture.ndim == 2 else inside[..., None], there, outside)


def _points(photo: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Where its points are, (n, 2) x and y in pixels times `scale`, and how they look, (n, 128)."""
    import cv2

    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    finder = cv2.SIFT_create(N_POINTS, contrastThreshold=FAINT)
    found, looks = finder.detectAndCompute(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), None)
    at = np.array([point.pt for point in found]).reshape(-1, 2)
    return at, np.zeros((0, 128), np.float32) if looks is None else looks


def _alike(here: tuple, there: tuple, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Those points, (n, 2) each, that look like one another and no other, at most `reach` apart."""
    import cv2

    matches = cv2.BFMatcher().knnMatch(here[1], there[1], k=2)
    sure = [
        two[0] for two in matches if len(two) == 2 and two[0].distance < UNLIKE * two[1].distance
    ]
    a = here[0][[match.queryIdx for match in sure]]
    b = there[0][[match.trainIdx for match in sure]]
    near = np.linalg.norm(a - b, axis=1) <= reach
    return a[near], b[near]
