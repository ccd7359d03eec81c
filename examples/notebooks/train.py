# %% [markdown]
# # Train your own
#
# An image classifier on scikit-learn's digits, 1,797 images of 8 x 8 pixels: trained with Lightning within a
# minute, converted to a Hugging Face folder, and used from there. Nothing is downloaded.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from perceiver.data.vision import DigitsDataModule
from perceiver.model.vision import image_classifier

pl.seed_everything(0, verbose=False)
torch.set_num_threads(1)  # so small a model loses time with more
data = DigitsDataModule(batch_size=64, num_workers=0)

# %% [markdown]
# ## The model
#
# A configuration says all of it. M = 64 pixels with Fourier codes of their positions are read by N = 8 latents with
# D = 64 channels, and one learned query asks for the class.

# %%
config = image_classifier.ImageClassifierConfig(
    image_classifier.ImageEncoderConfig(
        image_shape=data.image_shape,
        num_frequency_bands=4,
        num_cross_attention_heads=1,
        num_self_attention_heads=4,
        num_self_attention_layers_per_block=2,
        init_scale=0.1,
    ),
    image_classifier.ClassificationDecoderConfig(num_classes=10, num_output_query_channels=64, init_scale=0.1),
    num_latents=8,
    num_latent_channels=64,
)
sum(parameter.numel() for parameter in image_classifier.ImageClassifier(config).parameters())

# %% [markdown]
# ## Training
#
# The Lightning module knows batches, losses and metrics. An optimizer is yours; on the command line it is a flag:
# `perceiver image-classifier fit --optimizer=AdamW ...`.

# %%
losses = []


class Model(image_classifier.LitImageClassifier):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        losses.append(float(outputs["loss"]))


lit_model = Model.create(config, label_names=data.label_names)
trainer = pl.Trainer(
    max_steps=200,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(lit_model, datamodule=data)
accuracy = trainer.callback_metrics["val_acc"].item()

figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.plot(losses, alpha=0.3)
axis.plot(np.convolve(losses, np.ones(20) / 20, mode="valid"))
_ = axis.set(
    xlabel="step", ylabel="cross-entropy", yscale="log", title=f"{accuracy:.0%} of the validation digits are right"
)
# %% [markdown]
# ## Convert, and use
#
# The folder holds the model and its processor, and needs no code of this notebook any more.

# %%
trainer.save_checkpoint("digits.ckpt")
image_classifier.convert_checkpoint("my-digits", "digits.ckpt", image_processor=data.image_processor)

model = AutoModelForImageClassification.from_pretrained("my-digits").eval()
processor = AutoImageProcessor.from_pretrained("my-digits")
examples = [data.examples["valid"][i] for i in range(12)]
with torch.no_grad():
    probabilities = model(**processor([example["image"] for example in examples], return_tensors="pt")).logits.softmax(
        -1
    )

figure, axes = plt.subplots(2, 6, figsize=(9, 3.4), layout="constrained")
for axis, example, row in zip(axes.flat, examples, probabilities, strict=True):
    axis.imshow(example["image"], cmap="gray")
    axis.set_title(f"{model.config.id2label[int(row.argmax())]}, {row.max():.0%}")
    axis.axis("off")

# %%
assert accuracy > 0.8
