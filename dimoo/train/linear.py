"""What an image tokenizer without normalisation begins as: a linear one, whose pictures are blocks of their mean colours."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from dimoo.vq import Down, Resnet, Up, VQModel

YCC = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


@torch.no_grad()
def start_linear(model: VQModel, images: Tensor) -> None:
    """Initialise a network without normalisation as a linear one: three latents are a cell's mean colour and come back as it.

    The trunk carries colours through every level in channels 0–2 and their negatives in 3–5, since silu(x) - silu(-x) = x;
    residual branches start at zero. Training then begins from a blocky picture instead of from grey.
    """
    for module in model.modules():
        if isinstance(module, Resnet):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                nn.init.dirac_(module.conv_shortcut.weight)
                nn.init.zeros_(module.conv_shortcut.bias)
        elif isinstance(module, Down):
            module.conv.weight.zero_()
            module.conv.bias.zero_()
            for c in range(module.conv.out_channels):
                module.conv.weight[c, c, :2, :2] = 0.25
        elif isinstance(module, Up):
            nn.init.dirac_(module.conv.weight)
            nn.init.zeros_(module.conv.bias)
    ycc = torch.tensor(YCC)
    first, last, back, out = model.encoder.conv_in, model.encoder.conv_out, model.decoder.conv_in, model.decoder.conv_out
    first.weight[:6], last.weight[:3], back.weight[:6] = 0, 0, 0
    out.weight.zero_()
    for i in range(3):
        first.weight[i, i, 1, 1], first.weight[3 + i, i, 1, 1] = 1, -1
        last.weight[:3, i, 1, 1], last.weight[:3, 3 + i, 1, 1] = ycc[:, i], -ycc[:, i]
        out.weight[i, i, 1, 1], out.weight[i, 3 + i, 1, 1] = 1, -1
    back.weight[:3, :3, 1, 1], back.weight[3:6, :3, 1, 1] = torch.linalg.inv(ycc), -torch.linalg.inv(ycc)
    first.bias[:6] = torch.tensor([-0.5] * 3 + [0.5] * 3)
    last.bias.zero_()
    back.bias.zero_()
    out.bias.fill_(0.5)
    nn.init.dirac_(model.quant_conv.weight)
    nn.init.zeros_(model.quant_conv.bias)
    z = model.latents(images)
    scale, mean = 1.1 / z.std(dim=(0, 2, 3)), z.mean(dim=(0, 2, 3))
    model.quant_conv.weight.mul_(scale[:, None, None, None])
    model.quant_conv.bias.copy_(-mean * scale)
    nn.init.dirac_(model.post_quant_conv.weight)
    model.post_quant_conv.weight.div_(scale[:, None, None, None])
    model.post_quant_conv.bias.copy_(mean)
