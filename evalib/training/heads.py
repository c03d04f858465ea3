"""Which layers are a task's own, and which the two tasks share."""

from torch import nn


def freeze(network: nn.Module, phase: str) -> None:
    """Make `network` ready for a step of this phase (`schedule.phase`).

    In "mask head" and "depth head" all layers but the task's own keep their weights and, as in
    evaluation, their BatchNorm statistics. Raises: ValueError: there are no such layers.
    """
    task, *head = phase.split()
    if head and not any(own(name, task) for name, _ in network.named_parameters()):
        raise ValueError(f"phase {phase!r}: this network has no layers that are the {task}'s own")
    network.train(not head)
    for name, layer in network.named_modules():
        if head and own(name, task):
            layer.train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not head or own(name, task))


def own(name: str, task: str) -> bool:
    """Whether the layer or weight of this dotted name is `task`'s own: coarse.mask_head.0 is."""
    return any(part == task or part.startswith(f"{task}_") for part in name.split("."))
