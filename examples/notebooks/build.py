# %% [markdown]
# # Build your own
#
# A task that the library does not have: draw a wave from a few of its points. Inputs are points with values,
# queries are coordinates, so that inputs and outputs may lie anywhere. [Building blocks](../../docs/building-blocks.md)
# has all parts, and [segmentation](../../docs/howto-segmentation.md) is a longer example of this kind.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from perceiver.model.core.config import DecoderConfig, EncoderConfig
from perceiver.model.core.modules import (
    CoordinateInputAdapter,
    FourierPositionEncoding,
    FourierQueryProvider,
    PerceiverDecoder,
    PerceiverEncoder,
)

torch.manual_seed(0)
torch.set_num_threads(1)  # so small a model loses time with more


def height(points: Tensor, waves: Tensor) -> Tensor:
    """A wave of each example (B, 1, 3) at points (B, M, 2): values (B, M)."""
    phases = points @ waves[..., :2].mT + waves[:, None, :, 2]
    return phases.sin().mean(dim=-1)


def random_waves(num_examples: int) -> Tensor:
    return torch.randn(num_examples, 1, 3) * torch.tensor([1.5, 1.5, 3.0])


# %% [markdown]
# ## Encoder and decoder
#
# An input adapter turns points into (B, M, C): Fourier codes of the coordinates, and the value. The encoder writes them
# into N = 16 latents. A query is the code of a coordinate; the decoder answers each with a number.

# %%
encoding = FourierPositionEncoding(input_shape=(4, 4), num_frequency_bands=2)
encoder = PerceiverEncoder(
    CoordinateInputAdapter(encoding, num_values=1),
    EncoderConfig(
        num_cross_attention_heads=1, num_self_attention_heads=4, num_self_attention_layers_per_block=1, init_scale=0.2
    ),
    num_latents=16,
    num_latent_channels=32,
)
decoder = PerceiverDecoder(
    nn.Linear(32, 1),
    DecoderConfig(num_cross_attention_heads=4, init_scale=0.2),
    num_latent_channels=32,
    output_query_provider=FourierQueryProvider(encoding, 32),
)


def predict(points: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    """Points (B, M, 2) with values (B, M), queries (B, O, 2) -> values (B, O)."""
    latents = encoder(torch.cat([points, values[..., None]], dim=-1))
    return decoder(latents, decoder.output_query_provider(queries))[..., 0]


# %% [markdown]
# ## Training
#
# Other pictures at each step, 32 points to see and 32 others to tell. A loop of plain PyTorch is enough.

# %%
optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=4e-3)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=400)
losses = []
for _ in range(400):
    waves = random_waves(32)
    seen, asked = (2 * torch.rand(32, 32, 2) - 1 for _ in range(2))
    loss = nn.functional.mse_loss(predict(seen, height(seen, waves), asked), height(asked, waves))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())

# %% [markdown]
# ## Result
#
# Trained on 32 answers at a time, asked for 64 x 64 at once.

# %%
grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 64)] * 2)[None]
waves = random_waves(4)
seen = 2 * torch.rand(4, 32, 2) - 1
true = height(grid.expand(4, -1, -1), waves)
with torch.no_grad():
    drawn = predict(seen, height(seen, waves), grid.expand(4, -1, -1))
explained = 1 - ((drawn - true).square().mean() / true.var()).item()

figure, axes = plt.subplots(2, 5, figsize=(11, 4.2), layout="constrained", width_ratios=[1, 1, 1, 1, 1.4])
for column, points, *pictures in zip(axes.T, seen, true, drawn, strict=False):
    for axis, picture in zip(column, pictures, strict=True):
        axis.imshow(picture.view(64, 64).T.numpy(), extent=(-1, 1, 1, -1), vmin=-1, vmax=1, cmap="RdBu")
        axis.axis("off")
    column[0].plot(*points.T.numpy(), ".", color="black", markersize=3)
axes[0, 4].plot(losses, linewidth=0.7)
axes[0, 4].set(title="loss", yscale="log", xlabel="step")
axes[1, 4].axis("off")
_ = figure.suptitle(f"true pictures with the points that are seen; drawn from these: {explained:.0%} of the variance")
# %%
assert explained > 0.5
