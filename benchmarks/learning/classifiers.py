"""The models of `Classification` tasks.

perceiver-io    latents read the inputs once
bixt, bixt-16   latents and inputs read each other
encoder         inputs read each other
cnn (grids), pointnet (points): what one would try first
"""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.learning.tasks import Classification
from perceiver.model.core.bixt import BiXTEncoder
from perceiver.model.core.config import DecoderConfig, EncoderConfig
from perceiver.model.core.layers import MLP, AttentionLayer, SelfAttention
from perceiver.model.core.modules import (
    CoordinateInputAdapter,
    FourierPositionEncoding,
    InputAdapter,
    PerceiverDecoder,
    PerceiverEncoder,
    PerceiverIO,
    TokenInputAdapter,
    TrainableQueryProvider,
)
from perceiver.model.core.perceiver_io import init_parameters

CHANNELS, HEADS, LAYERS, WIDENING, LATENTS = 64, 4, 4, 4, 32
INIT_SCALE = 0.1  # small models learn faster with it than with the 0.02 of the big ones


class Classifier(nn.Module):
    """Base of classifiers: `logits` of examples are (B, classes)."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.logits(x), y)

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def input_adapter(task: Classification) -> InputAdapter:
    if task.vocab_size:
        return TokenInputAdapter(vocab_size=task.vocab_size, max_seq_len=task.x.shape[1], num_input_channels=CHANNELS)
    codes = FourierPositionEncoding(task.shape, num_frequency_bands=max(task.shape) // 2)
    return CoordinateInputAdapter(codes, num_values=task.x.shape[2] - len(task.shape))


def padding(task: Classification, x: Tensor) -> Tensor | None:
    return x == 0 if task.vocab_size else None


class PerceiverIOLearner(Classifier):
    """Perceiver IO: latents attend to the input once, and a learned query to them."""

    def __init__(self, task: Classification):
        super().__init__()
        self.task = task
        encoder = EncoderConfig(
            num_cross_attention_heads=1,
            num_cross_attention_qk_channels=CHANNELS,
            cross_attention_widening_factor=WIDENING,
            num_self_attention_heads=HEADS,
            num_self_attention_layers_per_block=LAYERS - 2,
            self_attention_widening_factor=WIDENING,
            init_scale=INIT_SCALE,
        )
        decoder = DecoderConfig(
            num_cross_attention_heads=1, cross_attention_widening_factor=WIDENING, init_scale=INIT_SCALE
        )
        self.model = PerceiverIO(
            PerceiverEncoder(input_adapter(task), encoder, num_latents=LATENTS, num_latent_channels=CHANNELS),
            PerceiverDecoder(
                nn.Sequential(nn.Linear(CHANNELS, task.num_classes), nn.Flatten(1)),
                decoder,
                num_latent_channels=CHANNELS,
                output_query_provider=TrainableQueryProvider(1, CHANNELS),
            ),
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.model(x, padding(self.task, x))


class BiXTLearner(Classifier):
    """BiXT: two layers in which latents and inputs attend to each other, then the latents to themselves; their mean."""

    def __init__(self, task: Classification, num_latents: int = LATENTS, token_mlp: bool = True):
        super().__init__()
        self.task = task
        self.encoder = BiXTEncoder(
            input_adapter(task),
            num_latents=num_latents,
            num_channels=CHANNELS,
            num_layers=LAYERS // 2,  # each has two layers of attention
            num_heads=HEADS,
            widening_factor=3 if token_mlp else WIDENING,  # about the parameters of the others
            token_mlp=token_mlp,
            init_scale=INIT_SCALE,
        )
        self.classes = nn.Sequential(nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, task.num_classes))
        init_parameters(self.classes, INIT_SCALE)

    def logits(self, x: Tensor) -> Tensor:
        return self.classes(self.encoder(x, padding(self.task, x)).mean(dim=1))


class Encoder(Classifier):
    """A Transformer encoder: all inputs attend to all in every layer; a linear layer reads their mean."""

    def __init__(self, task: Classification):
        super().__init__()
        self.task = task
        self.adapter = input_adapter(task)
        self.projection = nn.Linear(self.adapter.num_input_channels, CHANNELS)
        self.layers = nn.ModuleList(
            AttentionLayer(SelfAttention(num_channels=CHANNELS, num_heads=HEADS), MLP(CHANNELS, WIDENING))
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(CHANNELS)
        self.classes = nn.Linear(CHANNELS, task.num_classes)
        init_parameters(self, INIT_SCALE)

    def logits(self, x: Tensor) -> Tensor:
        pad_mask = padding(self.task, x)
        x = self.projection(self.adapter(x))
        for layer in self.layers:
            x = layer(x, pad_mask=pad_mask)
        x = self.norm(x)
        if pad_mask is None:
            return self.classes(x.mean(dim=1))
        weights = (~pad_mask).float() / (~pad_mask).sum(dim=1, keepdim=True)
        return self.classes((x * weights[..., None]).sum(dim=1))


class CNN(Classifier):
    """Three convolutions over a grid of one or two dimensions, and a linear layer."""

    def __init__(self, task: Classification):
        super().__init__()
        self.shape = task.shape
        convolution, kernel, channels = {1: (nn.Conv1d, 5, 160), 2: (nn.Conv2d, 3, 128)}[len(task.shape)]
        self.layers = nn.Sequential(
            convolution(1, 64, kernel, padding="same"),
            nn.ReLU(),
            convolution(64, channels, kernel, stride=2, padding=kernel // 2),
            nn.ReLU(),
            convolution(channels, channels, kernel, stride=2, padding=kernel // 2),
            nn.ReLU(),
            nn.Flatten(1),
            nn.LazyLinear(task.num_classes),
        )
        self.logits(task.x[:1])  # the linear layer takes its size

    def logits(self, x: Tensor) -> Tensor:
        return self.layers(x[..., -1].unflatten(1, self.shape)[:, None])


class PointNet(Classifier):
    """An MLP of each point, the largest of each channel, an MLP of these (arXiv 1612.00593, without its transforms)."""

    def __init__(self, task: Classification):
        super().__init__()
        self.points = nn.Sequential(
            nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 512), nn.ReLU()
        )
        self.classes = nn.Sequential(nn.Linear(512, 192), nn.ReLU(), nn.Linear(192, task.num_classes))

    def logits(self, x: Tensor) -> Tensor:
        return self.classes(self.points(x).amax(dim=1))
