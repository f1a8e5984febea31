"""One training iteration: batch, losses, gradients, optimizer step."""

import time
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from .seeding import seed_generators


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite. The message gives the iteration, the images and all losses."""


class TrainStep(SimpleTrainer):
    """Detectron2's loop body, with autocast on any device. All ranks stop together.

    Detectron2's ``AMPTrainer`` works only on CUDA, and its check of the loss stops only rank 0. Here the ranks exchange
    their losses and their requests to stop. Logging needs this exchange anyway.

    Args:
        model: a network that returns a dict of scalar losses in training mode.
        data_loader: an endless iterable of batches.
        optimizer: the optimizer of the model's parameters.
        dtype: the type for ``torch.autocast``. float16 implies loss scaling. None: no autocast.
        seed: the seed of the random choices inside the network, the same on all ranks.

    Attributes:
        stop_requested: set this to True to stop the training on all ranks. The exchange of the next iteration reads it.
        stop_agreed: whether any rank had set ``stop_requested`` at the last exchange.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ):
        super().__init__(model, data_loader, optimizer)
        self.device = next(model.parameters()).device
        self.dtype = dtype
        self.seed = seed
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)
        self.stop_requested = False
        self.stop_agreed = False
        self._batches: Iterator | None = None

    def close(self) -> None:
        """End the loader's processes. If the exit of the interpreter ends them, each takes seconds."""
        if hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = None

    def run_step(self) -> None:
        """One iteration.

        Raises:
            NonFiniteLossError: on every rank, before the optimizer's step, if a loss of any rank is NaN or infinite.
        """
        assert self.model.training, "the model was left in eval mode"
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        seed_generators(self.seed, self.iter, comm.get_rank())
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            losses = self.model(batch)
            if isinstance(losses, torch.Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        self._exchange({name: value.detach() for name, value in sorted(losses.items())}, data_time, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _exchange(self, losses: dict[str, torch.Tensor], data_time: float, batch: list[dict]) -> None:
        """Log the mean losses, agree on stopping, and stop everywhere if a loss is not finite."""
        values = torch.stack([value.to(torch.float64) for value in losses.values()])
        own = torch.cat([values.new_tensor([data_time, float(self.stop_requested)]), values])
        rows = [own]
        if comm.get_world_size() > 1:
            rows = [torch.empty_like(own) for _ in range(comm.get_world_size())]
            dist.all_gather(rows, own)
        table = torch.stack(rows).cpu()  # (ranks, 2 + losses)
        self.stop_agreed = bool(table[:, 1].any())
        if not torch.isfinite(table[:, 2:]).all():
            raise NonFiniteLossError(self._diagnosis(dict(zip(losses, values.tolist())), batch))
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time)
        if comm.is_main_process():
            means = dict(zip(losses, table[:, 2:].mean(dim=0).tolist()))
            storage.put_scalar("data_time", table[:, 0].max().item())
            storage.put_scalar("total_loss", sum(means.values()))
            if len(means) > 1:
                storage.put_scalars(**means)
            if self.scaler.is_enabled():
                storage.put_scalar("grad_scale", self.scaler.get_scale(), smoothing_hint=False)

    def _diagnosis(self, losses: dict[str, float], batch: list[dict]) -> str:
        images = [record.get("file_name", "(no file name)") for record in batch]
        lines = [
            f"a loss is not finite at iteration {self.iter}, learning rate {self.optimizer.param_groups[0]['lr']:g}"
        ]
        if self.scaler.is_enabled():
            lines[0] += f", loss scale {self.scaler.get_scale():g}"
        for rank, (their_losses, their_images) in enumerate(comm.all_gather((losses, images))):
            listed = ", ".join(f"{name} {value:g}" for name, value in their_losses.items())
            lines.append(f"  rank {rank}: {listed}; images: {', '.join(their_images)}")
        lines.append(
            "Usual reasons: the learning rate is too high for this batch size (SOLVER.BASE_LR), the warm-up is too "
            "short (SOLVER.WARMUP_ITERS), or labels of these images contain boxes without area."
        )
        return "\n".join(lines)

    def state_dict(self) -> dict:
        return super().state_dict() | {"grad_scaler": self.scaler.state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)
        if state_dict.get("grad_scaler"):  # empty where the checkpoint was saved without loss scaling
            self.scaler.load_state_dict(state_dict["grad_scaler"])
