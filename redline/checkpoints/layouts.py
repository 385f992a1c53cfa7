"""Tensor names of the published layouts: one rename table for each family of models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from redline.errors import CheckpointError

EMBEDDINGS = "language_model.model.embed_tokens.weight"
LM_HEAD = "language_model.lm_head.weight"


@dataclass(frozen=True)
class Layout:
    """How the tensors of a family are named in files, and what only they have."""

    family: str
    renames: tuple[tuple[str, str], ...]
    """Applied in order to every tensor name; what comes out is the name of the tensor in the model."""
    markers: tuple[str, ...]
    """Present, after renaming, in every layout that can be read."""
    known: str
    """The layouts, for an error message."""

    def rename(self, tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
        """Tensors under the names of the model; raises `CheckpointError` where two get one name."""
        renamed: dict[str, Tensor] = {}
        for new, tensor in tensors.items():
            for pattern, replacement in self.renames:
                new = re.sub(pattern, replacement, new)
            if new in renamed:
                raise CheckpointError(f"{folder}: two tensors are both {new}; layouts are mixed")
            renamed[new] = tensor
        return renamed

    def canonical(self, tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
        """`rename`, which also refuses what is no layout of this family."""
        renamed = self.rename(tensors, folder)
        absent = [marker for marker in self.markers if marker not in renamed]
        if absent:
            prefixes = sorted({".".join(name.split(".")[:2]) for name in tensors})
            raise CheckpointError(
                f"{folder}: not {self.family} checkpoint: no {', '.join(absent)} among {len(tensors)} tensors "
                f"({', '.join(prefixes[:8])}{', ...' if len(prefixes) > 8 else ''}); known are {self.known}"
            )
        return renamed


NAR_LAYOUT = Layout(
    "a NAR",
    renames=(
        (r"^model\.language_model\.", "language_model.model."),
        (r"^model\.out_bpe\.", "encoder.out_bpe."),
        (r"^model\.(encoder|projector)\.", r"\1."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^llm\.", "language_model."),
        (r"^projector\.qformer\.(window_positions|pos_emb)$", "projector.window_positions"),
        (r"^projector\.qformer\.queries$", "projector.query"),
        (r"^projector\.proj\.", "projector.layer_projector."),
        (r"^projector\.(qformer\.)?linear\.", "projector.out_linear."),
        (r"^(projector\.qformer\.layers\.\d+)\.o_proj\.", r"\1.cross_attention.o_proj."),
        (r"\.cross_attn\.", ".cross_attention."),
        (r"\.cross_attention\.query\.", ".cross_attention.q_proj."),
        (r"\.cross_attention\.key\.", ".cross_attention.k_proj."),
        (r"\.cross_attention\.value\.", ".cross_attention.v_proj."),
    ),
    markers=("encoder.out_bpe.weight", "projector.window_positions", EMBEDDINGS),
    known="the published NAR layouts: llm.* (first revision), language_model.* (later revision) and "
    "model.language_model.* (native port), each with a BPE head and a projector with window_positions",
)
AR_LAYOUT = Layout(
    "an AR or Plus",
    renames=(
        (r"^base_model\.model\.", ""),
        (r"^model\.language_model\.(?!model\.|lm_head\.)", "language_model.model."),
        (r"^model\.(encoder|projector|language_model)\.", r"\1."),
        (r"^language_model\.model\.(model|lm_head)\.", r"language_model.\1."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"\.base_layer\.", "."),
        (r"\.lora_([AB])\.(?:\w+\.)?weight$", r".lora_\1.weight"),
    ),
    markers=("encoder.input_linear.weight", "projector.qformer.layernorm.weight", EMBEDDINGS),
    known="encoder.*, projector.* and language_model.*, with or without a leading model., and with the decoder in "
    "language_model.model.model.*",
)
CTC_PARTS = (
    *((f".feed_forward{half}.linear1.", f".ff{half}.up_proj.") for half in "12"),
    *((f".feed_forward{half}.linear2.", f".ff{half}.down_proj.") for half in "12"),
    *((f".norm_feed_forward{half}.", f".ff{half}.pre_norm.") for half in "12"),
    *((f".self_attn.{part}_proj.", f".attn.to_{part}.") for part in "qkv"),
    (".self_attn.o_proj.", ".attn.to_out."),
    (".self_attn.rel_pos_emb.", ".attn.rel_pos_emb."),
    (".norm_self_att.", ".attn.pre_norm."),
    (".conv.norm.", ".conv.batch_norm."),
    (".norm_conv.", ".conv.norm."),
    (".conv.pointwise_lin1.", ".conv.up_conv."),
    (".conv.depthwise_conv.", ".conv.depth_conv.conv."),
    (".conv.pointwise_lin2.", ".conv.down_conv."),
    (".norm_out.", ".post_norm."),
)
"""Of the names within a layer: published, and ours. Applied in order, and backwards to write."""
CTC_LAYOUT = Layout(
    "a TurboCTC",
    renames=(("^encoder[.]", ""), *((re.escape(theirs), ours) for theirs, ours in CTC_PARTS)),
    markers=("out.weight",),
    known="encoder.* of Granite Speech 5.0 TurboCTC",
)
