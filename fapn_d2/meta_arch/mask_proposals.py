"""A network that proposes segments (FPN, Section 6)."""

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, ProposalNetwork
from detectron2.structures import ImageList, Instances

from ..heads.mask_proposals import MaskProposals


@META_ARCH_REGISTRY.register()
class MaskProposalNetwork(ProposalNetwork):
    """A pyramid with :class:`MaskProposals`, from MODEL.MASK_PROPOSALS.

    The arguments are those of Detectron2's ``ProposalNetwork``.
    """

    @configurable
    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Raises:
        ValueError: MODEL.PROPOSAL_GENERATOR.NAME is not "MaskProposals".
        """
        if MaskProposals.__name__ != cfg.MODEL.PROPOSAL_GENERATOR.NAME:
            raise ValueError(
                f"MODEL.PROPOSAL_GENERATOR.NAME is {cfg.MODEL.PROPOSAL_GENERATOR.NAME!r}; MODEL.META_ARCHITECTURE "
                f"{cls.__name__} needs {MaskProposals.__name__!r}"
            )
        return super().from_config(cfg)

    def forward(self, batched_inputs: list[dict]):
        """Losses by name in training; else per image {"proposals": ``Instances``}.

        The fields are ``objectness_logits`` (n,), best first, and ``proposal_masks``, a ``RegionMasks`` on the image at
        its original size.

        Args:
            batched_inputs: Detectron2's records with "image", in training with "instances", else with "height" and
                "width" if the image had another size.
        """
        images = [(self._move_to_current_device(x["image"]) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        batch = ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )
        features = self.backbone(batch.tensor)
        objects = [x["instances"].to(self.device) for x in batched_inputs] if self.training else None
        proposals, losses = self.proposal_generator(batch, features, objects)
        if self.training:
            return losses
        return [
            {"proposals": _at_size(found, x.get("height", size[0]), x.get("width", size[1]))}
            for found, x, size in zip(proposals, batched_inputs, batch.image_sizes)
        ]


def _at_size(found: Instances, height: int, width: int) -> Instances:
    masks = found.proposal_masks.rescaled(height, width)
    return Instances((height, width), objectness_logits=found.objectness_logits, proposal_masks=masks)
