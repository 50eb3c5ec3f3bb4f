"""ResNets in torch with torchvision's names and defaults, to be recorded (record.py)."""

import json
import types

import torch
from safetensors.torch import save_file
from torch import nn


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class Block(nn.Module):
    expansion = 1

    def add_downsample(self, inputs, width, stride):
        self.downsample = None
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.residual(x)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Basic(Block):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.add_downsample(inputs, width, stride)

    def residual(self, x):
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    expansion = 4

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.add_downsample(inputs, 4 * width, stride)

    def residual(self, x):
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(y))


class ResNet(nn.Module):
    def __init__(self, architecture, kind, widths, depths, num_classes):
        super().__init__()
        self.architecture = architecture
        channels = widths[0]
        self.conv1, self.bn1 = conv(3, channels, 7, 2), nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            blocks = []
            for block in range(depth):
                blocks.append(kind(channels, width, 2 if stage and not block else 1))
                channels = kind.expansion * width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, pixel_values):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(pixel_values))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return types.SimpleNamespace(logits=self.fc(x.mean((2, 3))))

    def save_pretrained(self, folder):
        """As timm does."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"architecture": self.architecture, "pretrained_cfg": {"input_size": [3, 21, 21]}}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
