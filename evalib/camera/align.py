"""A camera that moved between its two shots: the empty scene as it would see it from where it is.

Points that look alike in both shots (SIFT, Lowe 2004) tell how it moved, where enough of them agree
(RANSAC, Fischler & Bolles 1981): on a shift, a turn and a zoom, four numbers that a few points fix
well; or on the eight of a homography, for a camera that was tilted, where clearly more of them do.
The points of what is new agree with nothing. Those of a thing that was moved agree with each other,
but then others stayed where they were, or the thing fills little of the picture. A camera that went
somewhere else sees near things move past far ones: no homography undoes that.
"""

import numpy as np

LONG_SIDE = 800  # pixels in which points are looked for
N_POINTS = 2000
FAINT = 0.01  # contrast of a point: a quarter of SIFT's own, for plain walls
UNLIKE = 0.8  # a point's best match is so much nearer than its second best, or it is none
NEAR = 0.15  # of the long side: a camera that was moved farther is at another place
MISS = 1.5  # pixels by which points that agree may differ
ENOUGH = 12  # points that agree; two shots of different rooms have none
SPREAD = 0.15  # of the picture, within a string around these points
TILTED = 1.1  # times as many points that agree, and ENOUGH more besides

Points = tuple[np.ndarray, np.ndarray]  # (n, 2) x and y in pixels, and how they look, (n, 128)


def aligned(bg: np.ndarray, img: np.ndarray) -> np.ndarray:
    """`bg` as seen from where `img` was taken; what it does not show is taken from `img`, where
    then nothing differs, so that nothing is new. (H, W, 3) uint8, all three.

    Raises: ValueError: they differ in size, or `motion` cannot tell.
    """
    if bg.shape != img.shape:
        raise ValueError(f"bg is {bg.shape}, img is {img.shape}, needed one size: resize one")
    return moved(bg, motion(points(bg), points(img), bg.shape[:2]), img)


def points(photo: np.ndarray) -> Points:
    """What can be found again in another shot of `photo`, (H, W, 3) uint8."""
    import cv2  # here, because few commands need it

    scale = min(1, LONG_SIDE / max(photo.shape))
    size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    finder = cv2.SIFT_create(N_POINTS, contrastThreshold=FAINT)
    found, looks = finder.detectAndCompute(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), None)
    at = np.array([point.pt for point in found]).reshape(-1, 2)
    at = (at + 0.5) / np.divide(size, photo.shape[1::-1]) - 0.5
    return at, np.zeros((0, 128), np.float32) if looks is None else looks


def motion(bg: Points, img: Points, size: tuple[int, int]) -> np.ndarray:
    """How the camera moved between two photographs of one size, (height, width): a homography
    (3, 3) from pixels (x, y, 1) of `bg` to those of `img`.

    Raises: ValueError: too few points agree on one, or they do not tell about the whole picture.
    """
    import cv2

    pixel = max(1, max(size) / LONG_SIDE)  # of those in which points were looked for
    here, there = _alike(bg, img, NEAR * max(size))
    best, agree = np.eye(3), np.zeros(len(here), bool)
    if len(here) >= ENOUGH:
        miss = {"ransacReprojThreshold": MISS * pixel, "maxIters": 5000}
        four, agree_four = cv2.estimateAffinePartial2D(here, there, **miss)
        if four is not None:
            best, agree = np.vstack([four, [0, 0, 1]]), agree_four.ravel() > 0
        miss["method"] = cv2.USAC_MAGSAC
        eight, agree_eight = cv2.findHomography(here, there, **miss)
        if eight is not None and agree_eight.sum() > TILTED * agree.sum() + ENOUGH:
            best, agree = eight, agree_eight.ravel() > 0
    if agree.sum() < ENOUGH:
        text = f"{agree.sum()} points of both photographs agree on how the camera moved"
        todo = "take both from one place, with more in view than plain walls"
        raise ValueError(f"{text}, needed {ENOUGH}: {todo}")
    stayed = np.linalg.norm(here - there, axis=1) < MISS * pixel
    if (stayed & ~agree).sum() >= ENOUGH:  # something was moved, not the camera
        return np.eye(3)
    around = cv2.contourArea(cv2.convexHull(here[agree].astype(np.float32)))
    corners = np.array([[[x, y] for x in (0, size[1]) for y in (0, size[0])]], float)
    far = np.linalg.norm(cv2.perspectiveTransform(corners, best) - corners, axis=2).max()
    if around < SPREAD * size[0] * size[1] or far > NEAR * max(size):
        text = "the points on which both photographs agree tell too little of the whole picture"
        raise ValueError(f"{text}: show more that stands still, all over it")
    return best


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


def _alike(here: Points, there: Points, reach: float) -> tuple[np.ndarray, np.ndarray]:
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
