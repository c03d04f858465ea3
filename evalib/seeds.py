"""Named training recipes: ours, and the systems of earlier write-ups rebuilt as settings.

A recipe holds what differs from the defaults of `training.Config`. Seed 002 trained one network
per task from `fg_bg` alone, which its networks here do (`unet.PerTask`).
"""

RECIPES: dict[str, dict] = {
    # Our small network, both inputs, both heads.
    "small": {"network": "small"},
    # Seed 002: Dice won for the mask, L1 beat Huber and MSE for the depth; rate .01, then StepLR.
    "lean": {
        "network": "lean",
        "mask_loss": "dice",
        "depth_loss": "l1",
        "optimizer": "adam",
        "lr": 1e-2,
        "schedule": "step",
        "augment": "none",
    },
    "resnet": {
        "network": "resnet",
        "mask_loss": "dice",
        "depth_loss": "l1",
        "optimizer": "adam",
        "lr": 1e-3,  # not tuned; the document names .01, but no optimizer
        "schedule": "step",
        "augment": "none",
    },
}


def recipe(name: str) -> dict:
    """The settings of a named recipe.

    Raises: ValueError listing the known names.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return dict(RECIPES[name])
