"""The context modules that tell the segmentation networks apart; each maps [B, C, H, W] to the same shape.

Written from the papers: Non-local (Wang et al., CVPR 2018), GCNet (Cao et al., ICCVW 2019), DNL (Yin et al.,
ECCV 2020), DANet (Fu et al., CVPR 2019), EncNet (Zhang et al., CVPR 2018), APCNet (He et al., CVPR 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensembles.zoo.layers import conv_norm, resize_to


class NonLocal(nn.Module):
    """Every position attends to every other one.

    `disentangled` whitens queries and keys and adds a unary term (DNL).
    """

    def __init__(self, channels: int, *, disentangled: bool = False) -> None:
        super().__init__()
        inner = channels // 2
        self.inner = inner
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1)
        self.unary = nn.Conv2d(channels, 1, 1) if disentangled else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        if self.unary is not None:
            query = query - query.mean(dim=2, keepdim=True)
            key = key - key.mean(dim=2, keepdim=True)
        weights = torch.softmax(query.transpose(1, 2) @ key / self.inner**0.5, dim=-1)
        y = value @ weights.transpose(1, 2)
        if self.unary is not None:
            y = y + value @ torch.softmax(self.unary(x).flatten(2), dim=-1).transpose(1, 2)
        result: Tensor = x + self.out(y.view(x.shape[0], -1, *x.shape[2:]))
        return result


class GlobalContext(nn.Module):
    """One attention map for all positions; its sum goes through a bottleneck and is added everywhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attend = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1),
            nn.LayerNorm((channels // 4, 1, 1)),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        weights = torch.softmax(self.attend(x).flatten(2), dim=-1)
        context = x.flatten(2) @ weights.transpose(1, 2)
        result: Tensor = x + self.transform(context.unsqueeze(-1))
        return result


class PositionAttention(nn.Module):
    """DANet's spatial half, its queries and keys an eighth as wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, channels // 8, 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
        result: Tensor = x + self.scale * (value @ weights.transpose(1, 2)).view(x.shape)
        return result


class ChannelAttention(nn.Module):
    """DANet's other half: every channel attends to every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        flat = x.flatten(2)
        energy = flat @ flat.transpose(1, 2) / flat.shape[2]
        weights = torch.softmax(energy.amax(dim=-1, keepdim=True) - energy, dim=-1)
        return x + self.scale * (weights @ flat).view(x.shape)


class Encoding(nn.Module):
    """EncNet: positions are softly assigned to learned codewords; what is left over gates the channels."""

    def __init__(self, channels: int, codes: int = 32) -> None:
        super().__init__()
        self.project = conv_norm(channels, channels)
        self.codewords = nn.Parameter(torch.randn(codes, channels) * 0.1)
        self.smoothing = nn.Parameter(-torch.rand(codes))
        self.norm = nn.BatchNorm1d(codes)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        points = self.project(x).flatten(2).transpose(1, 2)
        # |p - c|^2 without a tensor of positions x codes x channels.
        distance = (
            points.square().sum(dim=2, keepdim=True)
            - 2 * points @ self.codewords.t()
            + self.codewords.square().sum(dim=1)
        )
        weights = torch.softmax(self.smoothing * distance / points.shape[2], dim=2)
        residual = weights.transpose(1, 2) @ points - weights.sum(dim=1).unsqueeze(2) * self.codewords
        code = torch.relu(self.norm(residual / points.shape[1])).mean(dim=1)
        return torch.relu(x + x * torch.sigmoid(self.gate(code))[:, :, None, None])


class AdaptiveContext(nn.Module):
    """One scale of APCNet: pooled vectors, mixed at each position by weights that a convolution predicts."""

    def __init__(self, inputs: int, channels: int, scale: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(scale)
        self.pooled = conv_norm(inputs, channels)
        self.reduced = conv_norm(inputs, channels)
        self.affinity = nn.Conv2d(channels, scale * scale, 1)
        self.residual = conv_norm(channels, channels)
        self.fusion = conv_norm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, channels, H, W]."""
        pooled = self.pooled(self.pool(x)).flatten(2)
        reduced = self.reduced(x)
        everywhere = resize_to(reduced.mean(dim=(2, 3), keepdim=True), reduced)
        weights = torch.sigmoid(self.affinity(reduced + everywhere)).flatten(2)
        context = (pooled @ weights).view(reduced.shape)
        result: Tensor = self.fusion(torch.relu(self.residual(context) + reduced))
        return result
