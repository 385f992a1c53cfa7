"""The packed editor of CPUs: windows of the projector and sequences of the language model laid end to end.

As in `redline.engine.packed`, every product has the same number of rows, so that what is computed for a row cannot
depend on its neighbours. Each sequence attends to itself alone, and nothing is padded to the length of another.
`redline.models.nar` is the plain twin.

M rows in all, R rows of a launch, W windows of w frames, q queries of a window, P width of the projector, H of the
language model, h heads, d numbers of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.engine.crew import run_launches
from redline.engine.packed import GivenUp, Product, below
from redline.models.granite import Block, rotate
from redline.models.invariant import LAUNCH_ROWS, attend_heads, gelu, silu
from redline.models.nar import NarModel
from redline.models.projector import Projector, ProjectorBlock
from redline.models.rope import rotation


class PackedProjectorBlock:
    """Cross-attention and feed-forward of a number of windows (`ProjectorBlock`)."""

    def __init__(self, block: ProjectorBlock, windows: int, frames: int, queries: int) -> None:
        attention, mlp = block.cross_attention, block.mlp
        self.heads, self.norms = attention.num_heads, (block.attn_norm, block.mlp_norm)
        self.to_q, self.to_out, self.up, self.down = (
            Product(layer.weight, layer.bias, windows * queries)
            for layer in (attention.q_proj, attention.o_proj, mlp.fc1, mlp.fc2)
        )
        self.to_k, self.to_v = (
            Product(layer.weight, layer.bias, windows * frames) for layer in (attention.k_proj, attention.v_proj)
        )

    def __call__(self, queries: Tensor, frames: Tensor, windows: int) -> Tensor:
        """queries [W * q, P], frames [W * w, P] -> [W * q, P]."""
        q, k, v = (
            part.view(windows, -1, part.shape[-1])
            for part in (self.to_q(self.norms[0](queries)), self.to_k(frames), self.to_v(frames))
        )
        mixed = torch.empty_like(q)

        def attend(_: int) -> None:
            mixed.copy_(attend_heads(q, k, v, self.heads))

        run_launches(attend, 1, is_sequential=True)  # small products may differ where several threads share one
        queries = self.to_out.added(mixed.flatten(0, 1), queries)
        return self.down.added(silu(self.up(self.norms[1](queries))), queries)


class PackedProjector:
    """Encoder states -> audio embeddings, a number of windows at a time (`Projector`)."""

    def __init__(self, projector: Projector, rows: int, release: bool) -> None:
        """For launches of `rows` frames, or the whole windows in them."""
        config = projector.config
        self.frames, self.rate = config.block_size, config.downsample_rate
        self.queries, self.windows = self.frames // self.rate, max(1, rows // self.frames)
        self.norms, self.out_norm = projector.layer_norms, projector.out_norm
        self.query, self.positions = projector.query, projector.window_positions
        project, out, layers = projector.layer_projector, projector.out_linear, projector.qformer["layers"]
        self.project = Product(project.weight, project.bias, self.windows * self.frames)
        self.out = Product(out.weight, out.bias, self.windows * self.queries)
        self.blocks = []
        assert isinstance(layers, torch.nn.ModuleList)
        for number, block in enumerate(layers):
            assert isinstance(block, ProjectorBlock)
            self.blocks.append(PackedProjectorBlock(block, self.windows, self.frames, self.queries))
            if release:
                layers[number] = GivenUp()
        if release:
            projector.layer_projector, projector.out_linear = GivenUp(), GivenUp()  # type: ignore[assignment]

    def __call__(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states, one [B, T, D] per exported layer, and lengths [B] -> [B, S, H] and lengths [B]."""
        w, q, counts, T = self.frames, self.queries, lengths.tolist(), exports[0].shape[1]
        # The windows that begin within a clip: clip, place among its windows, frames that exist.
        windows = [(row, at, min(w, n - at * w)) for row, n in enumerate(counts) for at in range(-(-n // w))]
        y = exports[0].new_zeros(len(counts), -(-T // w) * q, self.out.width)

        def launch(number: int) -> None:
            own = windows[number * self.windows : (number + 1) * self.windows]
            embeds = self._launch(exports, own).view(self.windows, q, -1)
            for (row, at, _), window in zip(own, embeds, strict=False):
                y[row, at * q : (at + 1) * q] = window

        run_launches(launch, -(-len(windows) // self.windows))
        return y[:, : T // self.rate], lengths // self.rate

    def _launch(self, exports: Sequence[Tensor], windows: Sequence[tuple[int, int, int]]) -> Tensor:
        """Some windows, as many as a launch has or fewer -> [W * q, H]."""
        W, w = self.windows, self.frames
        states = [exports[0].new_zeros(W, w, export.shape[-1]) for export in exports]
        exists = torch.zeros(W, w, 1, dtype=torch.bool)
        for number, (row, at, frames) in enumerate(windows):
            exists[number, :frames] = True
            for own, export in zip(states, exports, strict=True):
                own[number, :frames] = export[row, at * w : at * w + frames]
        normed = [norm(own) for norm, own in zip(self.norms, states, strict=True)]
        x = gelu(self.project(torch.cat(normed, dim=-1).flatten(0, 1)))
        x = x.view(W, w, -1).masked_fill(~exists, 0.0)  # [W, w, P]
        groups = x.view(W, -1, self.rate, x.shape[-1]).unbind(2)
        queries = (self.query + sum(groups[1:], groups[0]) / len(groups)).flatten(0, 1)  # [W * q, P]
        seen = (x + self.positions).flatten(0, 1)  # [W * w, P]
        for block in self.blocks:
            queries = block(queries, seen, W)
        return self.out(self.out_norm(queries))


class PackedLayer:
    """One layer of the language model over packed rows (`redline.models.granite.Block`)."""

    def __init__(self, layer: Block, head_dim: int, scale: float, rows: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.rows, self.head_dim, self.scale, self.residual = rows, head_dim, scale, layer.residual
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        q, k, v = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
        self.to_qkv = Product(below(q, k, v), None, rows)
        self.heads, self.kv_heads = len(q) // head_dim, len(k) // head_dim
        self.to_out = Product(attention.o_proj.weight, None, rows)
        self.gate_up = Product(below(mlp.gate_proj.weight, mlp.up_proj.weight), None, rows)
        self.down = Product(mlp.down_proj.weight, None, rows)

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, bounds: Sequence[int]) -> None:
        """Rows x [M, H], which are written over, cosines and sines [M, 1, d]; `bounds` of the sequences in them."""
        R, turned = self.rows, self.heads + self.kv_heads
        rows = [slice(at, at + R) for at in range(0, len(x), R)]
        qkv = x.new_empty(len(x), turned + self.kv_heads, self.head_dim)
        y = x.new_zeros(len(x), self.heads * self.head_dim)

        def project(number: int) -> None:
            at = rows[number]
            own = self.to_qkv(self.norms[0](x[at])).view(R, -1, self.head_dim)
            qkv[at, :turned] = rotate(own[:, :turned], cos[at], sin[at])
            qkv[at, turned:] = own[:, turned:]

        def attend(number: int) -> None:
            own = qkv[bounds[number] : bounds[number + 1]].transpose(0, 1)[None]
            q, k, v = own.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale, enable_gqa=True)
            y[bounds[number] : bounds[number + 1]] = mixed[0].transpose(0, 1).flatten(1)

        def finish(number: int) -> None:
            at = rows[number]
            own = x[at].add_(self.to_out(y[at]).mul_(self.residual))
            gate, up = self.gate_up(self.norms[1](own)).chunk(2, dim=-1)
            own.add_(self.down(silu(gate) * up).mul_(self.residual))

        run_launches(project, len(rows))
        run_launches(attend, len(bounds) - 1, is_sequential=True)
        run_launches(finish, len(rows))


class PackedEditor:
    """`embed_audio` and `read` of a `NarModel`, with the same arguments and results."""

    def __init__(self, model: NarModel, *, rows: int = LAUNCH_ROWS, release: bool = False) -> None:
        """For launches of `rows` frames, and half as many tokens: few sequences are longer.

        With `release` the model gives its layers up for it, so that no weights are in memory twice.
        """
        self.model, self.config, self.rows = model, model.config.text, rows // 2
        with torch.no_grad():
            self.projector = PackedProjector(model.projector, rows, release)
            layers = model.language_model.model.layers
            self.layers = []
            for number, layer in enumerate(layers):
                assert isinstance(layer, Block)
                self.layers.append(
                    PackedLayer(layer, self.config.head_dim, self.config.attention_multiplier, self.rows)
                )
                if release:
                    layers[number] = GivenUp()

    @torch.inference_mode()
    def embed_audio(self, exports: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states, one [B, T, D] per exported layer -> audio embeddings [B, S, H] and lengths [B]."""
        embeds, counts = self.projector(exports, lengths)
        if self.model.config.scale_projected_embeddings:
            embeds = embeds / self.config.embedding_multiplier
        return embeds, counts

    @torch.inference_mode()
    def read(self, audio_embeds: Tensor, audio_lengths: Tensor, slots: Tensor, slot_lengths: Tensor) -> Tensor:
        """One bidirectional pass over audio [B, S, H] ++ slots [B, K] -> the slots' states [B, K, H]."""
        embeds = self.model.language_model.embed(slots)  # [B, K, H]
        audio, own = audio_lengths.tolist(), slot_lengths.tolist()
        lengths = [some + more for some, more in zip(audio, own, strict=True)]
        bounds = [0, *accumulate(lengths)]
        M = self._whole(bounds[-1])
        x, positions = embeds.new_zeros(M, embeds.shape[-1]), torch.zeros(M, dtype=torch.int64)
        for row, (start, end) in enumerate(pairwise(bounds)):
            x[start : start + audio[row]] = audio_embeds[row, : audio[row]]
            x[start + audio[row] : end] = embeds[row, : own[row]]
            positions[start:end] = torch.arange(end - start)
        x *= self.config.embedding_multiplier
        places = torch.arange(self._whole(max(lengths)))[None]
        cos, sin = (
            part[0, 0, positions, None]  # [M, 1, d]
            for part in rotation(places, self.config.head_dim, self.config.rope_theta, self.config.yarn)
        )
        for layer in self.layers:
            layer(x, cos, sin, bounds)
        norm, hidden = self.model.language_model.model.norm, torch.zeros_like(embeds)
        for at in range(0, M, self.rows):
            x[at : at + self.rows] = norm(x[at : at + self.rows])
        for row, end in enumerate(bounds[1:]):
            hidden[row, : own[row]] = x[end - own[row] : end]
        return hidden

    def _whole(self, rows: int) -> int:
        """So many rows, and what the last launch needs beside them."""
        return -(-max(1, rows) // self.rows) * self.rows
