"""The image tokenizer: pictures <-> grids of codes.

The network and its weight names are those of diffusers' `VQModel` in aMUSEd's configuration, which the published checkpoint
uses; one field of our own, `norm_scope`, selects where normalisation takes its statistics. With "image" (the published
model) a change anywhere moves every code a little; with "none" there is no normalisation, only its scale and shift, so codes
depend on their neighbourhood alone and stay steady elsewhere. Large pictures go through the network in strips (see strips.py).
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dimoo.errors import DimooError
from dimoo.strips import convolve

WEIGHTS = "diffusion_pytorch_model"
DEFAULTS = {
    "block_out_channels": (128, 256, 256, 512, 768), "layers_per_block": 2, "latent_channels": 64, "num_vq_embeddings": 8192,
    "vq_embed_dim": None, "norm_num_groups": 32, "in_channels": 3, "out_channels": 3, "mid_block_add_attention": False,
    "norm_scope": "image",
}  # fmt: skip


class Affine(nn.Module):
    """A learned scale and shift of each channel: what is left of a norm without statistics."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


def norm(groups: int, channels: int, scope: str) -> nn.Module:
    return nn.GroupNorm(groups, channels, eps=1e-6) if scope == "image" else Affine(channels)


class Resnet(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, scope: str):
        super().__init__()
        self.norm1 = norm(groups, inputs, scope)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(groups, outputs, scope)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = convolve(self.conv2, convolve(self.conv1, x, self.norm1), self.norm2)
        h += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h


class Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv, x, enlarge=2)


class Level(nn.Module):
    """Some resnets at one resolution, then a change of resolution (`down` or `up`; none at the last level).

    A network goes through its layers itself, so that nobody holds on to what entered the level.
    """

    def __init__(self, inputs: int, outputs: int, layers: int, groups: int, scope: str, move: str | None):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(inputs if i == 0 else outputs, outputs, groups, scope) for i in range(layers))
        if move == "down":
            self.downsamplers = nn.ModuleList([Down(outputs)])
        elif move == "up":
            self.upsamplers = nn.ModuleList([Up(outputs)])

    def layers(self) -> Iterator[nn.Module]:
        for module in self.children():
            yield from module


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int, scope: str):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, groups, scope) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.resnets[0](x))


class Encoder(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        widths, groups, scope = c["block_out_channels"], c["norm_num_groups"], c["norm_scope"]
        self.conv_in = nn.Conv2d(c["in_channels"], widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(widths[max(i - 1, 0)], w, c["layers_per_block"], groups, scope, "down" if i < len(widths) - 1 else None)
            for i, w in enumerate(widths)
        )
        self.mid_block = Middle(widths[-1], groups, scope)
        self.conv_norm_out = norm(groups, widths[-1], scope)
        self.conv_out = nn.Conv2d(widths[-1], c["latent_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            for layer in block.layers():
                x = layer(x)
        return convolve(self.conv_out, self.mid_block(x), self.conv_norm_out)


class Decoder(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        widths, groups, scope = c["block_out_channels"][::-1], c["norm_num_groups"], c["norm_scope"]
        self.conv_in = nn.Conv2d(c["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups, scope)
        self.up_blocks = nn.ModuleList(
            Level(widths[max(i - 1, 0)], w, c["layers_per_block"] + 1, groups, scope, "up" if i < len(widths) - 1 else None)
            for i, w in enumerate(widths)
        )
        self.conv_norm_out = norm(groups, widths[-1], scope)
        self.conv_out = nn.Conv2d(widths[-1], c["out_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            for layer in block.layers():
                x = layer(x)
        return convolve(self.conv_out, x, self.conv_norm_out)


class Quantizer(nn.Module):
    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(size, width)

    def codes(self, z: Tensor) -> Tensor:
        """Nearest code of each latent: (B, C, h, w) -> (B, h, w) long, in float32."""
        flat = z.permute(0, 2, 3, 1).float().flatten(0, 2)
        book = self.embedding.weight.float()
        return torch.cdist(flat, book, compute_mode="donot_use_mm_for_euclid_dist").argmin(1).view(z.shape[0], *z.shape[2:])

    def vectors(self, codes: Tensor) -> Tensor:
        """(B, h, w) -> (B, C, h, w)."""
        return self.embedding(codes).permute(0, 3, 1, 2).contiguous()


class VQModel(nn.Module):
    """Images in [0, 1] <-> codes. `config` holds diffusers' field names; what is missing takes aMUSEd's values."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = c = DEFAULTS | config
        width = c["vq_embed_dim"] or c["latent_channels"]
        self.encoder = Encoder(c)
        self.quant_conv = nn.Conv2d(c["latent_channels"], width, 1)
        self.quantize = Quantizer(c["num_vq_embeddings"], width)
        self.post_quant_conv = nn.Conv2d(width, c["latent_channels"], 1)
        self.decoder = Decoder(c)

    @property
    def cell(self) -> int:
        """Pixels of a cell's side."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def codebook(self) -> Tensor:
        """(codes, width)"""
        return self.quantize.embedding.weight

    def precise(self, dtype: torch.dtype) -> VQModel:
        """Puts what draws pictures in `dtype`; what finds codes is in float32, as published: rounded, it finds others.

        (Graphics cards may still multiply it in TF32, as torch has it by default for convolutions, and as published.)
        """
        self.float()
        for part in (self.post_quant_conv, self.decoder):
            part.to(dtype)
        return self

    def latents(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H / cell, W / cell), before rounding to codes."""
        images = images.to(self.codebook.dtype, memory_format=torch.channels_last)
        return self.quant_conv(self.encoder(images))

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Code vectors (B, C, h, w) -> images (B, 3, H, W), not clipped."""
        latents = latents.to(self.post_quant_conv.weight.dtype, memory_format=torch.channels_last)
        return self.decoder(self.post_quant_conv(latents))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> codes (B, h, w), row-major, long. H and W are multiples of `cell`."""
        return self.quantize.codes(self.latents(images))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, h, w) -> images (B, 3, H, W) float32 in [0, 1]."""
        return self.reconstruct(self.quantize.vectors(codes)).float().clamp(0, 1)

    @classmethod
    def without_contents(cls, config: dict) -> VQModel:
        """The network on the meta device. Raises DimooError for a config of which none can be made."""
        try:
            with torch.device("meta"):
                return cls(config)
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise DimooError(f"The image tokenizer's config.json has a value that cannot be used ({error}).") from None

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VQModel:
        """Read config.json and the weights (one file, or shards with an index) of a diffusers folder."""
        folder = Path(folder)
        config = read_vq_config(folder)
        index = folder / f"{WEIGHTS}.safetensors.index.json"
        names = {f"{WEIGHTS}.safetensors"}
        if index.exists():
            try:
                names = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError):
                raise DimooError(f"The image tokenizer's {index.name} is broken; download it again.") from None
        weights: dict[str, Tensor] = {}
        for name in sorted(names):
            if not (folder / name).exists():
                raise DimooError(f"The image tokenizer is incomplete: {name} is missing from {folder}.")
            try:
                weights |= load_file(folder / name)
            except (SafetensorError, OSError) as error:
                raise DimooError(f"The image tokenizer's {name} cannot be read ({error}); download it again.") from None
        model = cls.without_contents(config)
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()
            raise DimooError(f"The image tokenizer's weights do not fit its config.json: {first}") from None
        return model.to(device, memory_format=torch.channels_last).precise(dtype).eval()


def read_vq_config(folder: Path) -> dict:
    """config.json of an image tokenizer, aMUSEd's values in its gaps. Raises DimooError when it is missing or broken."""
    try:
        return DEFAULTS | json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise DimooError(f"The image tokenizer is missing: there is no {folder / 'config.json'}.") from None
    except (ValueError, TypeError):
        raise DimooError(f"The image tokenizer's {folder / 'config.json'} is not a valid JSON object.") from None
