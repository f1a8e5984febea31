"""Parts of a network that training leaves as they are, as in the 4-step training of Faster R-CNN."""

from collections.abc import Sequence

from torch import nn

from ..messages import nearest, some


def freeze_parts(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Freeze parts of a network, in place; returns it. MODEL.FREEZE_PARTS names them.

    Parameters get no gradient, so an optimizer does not see them, and neither momentum nor weight decay moves them.
    Norms with running statistics use these statistics in training too, and do not change them. Call this before the
    optimizer is built and before the network is wrapped in DistributedDataParallel.

    Args:
        model: the network.
        names: names of modules or parameters, each with all that is below it ("backbone").

    Raises:
        ValueError: a name that the network lacks, or nothing is left to train.
    """
    for name in names:
        below = [parameter for path, parameter in model.named_parameters() if f"{path}.".startswith(f"{name}.")]
        modules = [module for path, module in model.named_modules() if f"{path}.".startswith(f"{name}.")]
        if not (below or modules):
            raise ValueError(f"MODEL.FREEZE_PARTS names {name!r}, which the network lacks{_hint(model, name)}")
        for parameter in below:
            parameter.requires_grad_(False)
        for module in modules:
            if getattr(module, "running_mean", None) is not None:
                module.eval()
                # A call of train() on the network puts the norm back into training mode.
                module.register_forward_pre_hook(_in_evaluation_mode)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"MODEL.FREEZE_PARTS ({', '.join(names)}) leaves nothing to train")
    return model


def _in_evaluation_mode(module: nn.Module, inputs: tuple) -> None:
    module.eval()


def _hint(model: nn.Module, name: str) -> str:
    known = [path for path, _ in model.named_modules() if path] + [path for path, _ in model.named_parameters()]
    parts = sorted({path.split(".")[0] for path in known})
    return nearest(name, known, otherwise=f"; its parts are {some(parts, limit=10)}")
