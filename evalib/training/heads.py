"""Which layers are a task's own, and which the two tasks share."""

from torch import nn


def freeze(network: nn.Module, phase: str) -> None:
    """Make `network` ready for a step of this phase (`schedule.phase`).

    In "mask" and "depth" the other task's own layers keep their weights. In "mask head" and "depth
    head" all layers but the task's own do and, as in evaluation, keep their BatchNorm statistics.
    Raises: ValueError: there are no such layers.
    """
    task, *head = phase.split()
    network.train(not head)
    network.requires_grad_(not head)
    if task == "both":  # most steps of most runs: no names are looked at
        return
    if not head:
        other = "depth" if task == "mask" else "mask"
        for name, weight in network.named_parameters():
            weight.requires_grad_(not own(name, other))
        return
    layers = [layer for name, layer in network.named_modules() if own(name, task)]
    if not layers:
        raise ValueError(f"phase {phase!r}: this network has no layers that are the {task}'s own")
    for layer in layers:
        layer.train()
        layer.requires_grad_()


def own(name: str, task: str) -> bool:
    """Whether the layer or weight of this dotted name is `task`'s own: coarse.mask_head.0 is."""
    return any(part == task or part.startswith(f"{task}_") for part in name.split("."))
