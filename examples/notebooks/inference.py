# %% [markdown]
# # Inference, one cell per task
#
# Models here are small and have random weights, so that everything runs offline and in seconds: what they say means
# nothing, what goes in and comes out is the same as with trained weights. For those, put a hub id or a folder in place
# of the model: `pipeline("fill-mask", model="krasserm/perceiver-io-mlm")`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from transformers import PerceiverTokenizer, pipeline

torch.manual_seed(0)
tokenizer = PerceiverTokenizer()  # UTF-8 bytes and six special tokens: nothing to download

# %% [markdown]
# ## Masked language model

# %%
from perceiver.model.text import mlm

encoder = mlm.TextEncoderConfig(
    vocab_size=262, max_seq_len=128, num_input_channels=32, num_self_attention_layers_per_block=2
)
config = mlm.MaskedLanguageModelConfig(
    encoder, mlm.TextDecoderConfig(vocab_size=262, max_seq_len=128), num_latents=16, num_latent_channels=64
)
model = mlm.PerceiverMaskedLanguageModel(mlm.PerceiverMaskedLanguageModelConfig(config)).eval()
fillings = pipeline("fill-mask", model=model, tokenizer=tokenizer)("wor[MASK]s", top_k=5)
[(filling["token"], round(filling["score"], 4)) for filling in fillings]

# %% [markdown]
# ## Causal language model
#
# A Perceiver AR. `num_latents` says how many of the last positions take part in the deep part of the model.

# %%
from perceiver.model.text import clm

config = clm.CausalLanguageModelConfig(
    max_seq_len=64, max_latents=16, num_channels=32, num_heads=4, num_self_attention_layers=2
)
model = clm.PerceiverCausalLanguageModel(clm.PerceiverCausalLanguageModelConfig(config)).eval()
continued = model.generate(
    torch.tensor([tokenizer.encode("Recently, I started to", add_special_tokens=False)]),
    num_latents=4,
    max_new_tokens=12,
    do_sample=True,
    top_k=20,
)
continued.shape  # 22 bytes of prompt and 12 new ones

# %% [markdown]
# ## Text classifier

# %%
from perceiver.model.text import classifier

config = classifier.TextClassifierConfig(
    encoder,
    classifier.ClassificationDecoderConfig(num_classes=2, num_output_query_channels=32),
    num_latents=16,
    num_latent_channels=64,
)
labels = {0: "NEGATIVE", 1: "POSITIVE"}
model = classifier.PerceiverTextClassifier(classifier.PerceiverTextClassifierConfig(config, id2label=labels)).eval()
pipeline("text-classification", model=model, tokenizer=tokenizer)("The best film of the year.", top_k=2)

# %% [markdown]
# ## Token classifier
#
# It reads bytes, and the pipeline puts them together to words.

# %%
from perceiver.model.text import token_classifier

names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
config = token_classifier.TokenClassifierConfig(
    encoder,
    token_classifier.TokenClassificationDecoderConfig(num_classes=len(names), max_seq_len=128),
    num_latents=16,
    num_latent_channels=64,
)
model = token_classifier.PerceiverTokenClassifier(
    token_classifier.PerceiverTokenClassifierConfig(config, id2label=dict(enumerate(names)))
).eval()
entities = pipeline(
    "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="average", ignore_labels=[]
)
[(entity["entity_group"], entity["word"]) for entity in entities("Zoë saw New York")]

# %% [markdown]
# ## Image classifier

# %%
from sklearn.datasets import load_digits

from perceiver.model.vision import image_classifier

config = image_classifier.ImageClassifierConfig(
    image_classifier.ImageEncoderConfig(
        image_shape=(8, 8, 1),
        num_frequency_bands=4,
        num_cross_attention_heads=1,
        num_self_attention_heads=4,
        num_self_attention_layers_per_block=2,
    ),
    image_classifier.ClassificationDecoderConfig(num_classes=10, num_output_query_channels=64),
    num_latents=8,
    num_latent_channels=64,
)
model = image_classifier.PerceiverImageClassifier(image_classifier.PerceiverImageClassifierConfig(config)).eval()
processor = image_classifier.PerceiverImageClassifierInputProcessor(
    single_channel=True, do_center_crop=False, do_resize=False, image_mean=0.5, image_std=0.5
)
digits = (load_digits().images[:4] * (255 / 16)).astype(np.uint8)
with torch.no_grad():
    probabilities = model(**processor(list(digits), return_tensors="pt")).logits.softmax(dim=-1).numpy()

figure, axes = plt.subplots(2, 4, figsize=(8, 3.4), layout="constrained")
for digit, row, (above, below) in zip(digits, probabilities, axes.T, strict=True):
    above.imshow(digit, cmap="gray")
    above.axis("off")
    below.bar(range(10), row)
    below.set_xticks(range(10))
_ = figure.suptitle("four digits, and the probability of each class")
# %% [markdown]
# ## Optical flow
#
# Two frames, and where each pixel of the first one is in the second. Colours are directions.

# %%
from perceiver.data.vision import render_optical_flow
from perceiver.model.vision import optical_flow

config = optical_flow.OpticalFlowConfig(
    optical_flow.OpticalFlowEncoderConfig(
        image_shape=(48, 64),
        num_frequency_bands=8,
        num_cross_attention_heads=1,
        num_self_attention_heads=4,
        num_self_attention_layers_per_block=2,
    ),
    optical_flow.OpticalFlowDecoderConfig(
        image_shape=(48, 64),
        num_cross_attention_qk_channels=64,
        num_cross_attention_v_channels=64,
        cross_attention_residual=False,
    ),
    num_latents=32,
    num_latent_channels=64,
)
model = optical_flow.OpticalFlowPerceiver(optical_flow.OpticalFlowPerceiverConfig(config)).eval()
random = np.random.default_rng(0)
first = np.kron(random.integers(0, 256, (12, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
frames = first, np.roll(first, (2, 3), axis=(0, 1))  # 3 pixels to the right, 2 down
flow = pipeline("optical-flow", model=model)(frames)

figure, axes = plt.subplots(1, 4, figsize=(10, 2.2), layout="constrained")
pictures = [*frames, render_optical_flow(np.broadcast_to(np.float32([3, 2]), flow.shape)), render_optical_flow(flow)]
for axis, picture, title in zip(axes, pictures, ["first", "second", "true flow", "random weights"], strict=True):
    axis.imshow(picture)
    axis.set_title(title)
    axis.axis("off")

# %% [markdown]
# ## Symbolic audio
#
# A MIDI file, and its continuation right of the line. `render=True` gives sound, too.

# %%
from perceiver.data.audio import draw_piano_roll, piano_piece
from perceiver.model.audio import symbolic

config = symbolic.SymbolicAudioModelConfig(
    max_seq_len=256, max_latents=64, num_channels=32, num_heads=4, num_self_attention_layers=2
)
model = symbolic.PerceiverSymbolicAudioModel(symbolic.PerceiverSymbolicAudioModelConfig(config)).eval()
generator = pipeline("symbolic-audio-generation", model=model)
result = generator(piano_piece(seed=11).midi, max_prompt_length=150, num_latents=1, max_new_tokens=60, do_sample=True)
draw_piano_roll(result["generated_audio_midi"])

# %% [markdown]
# ## Multimodal autoencoder
#
# Frames, sound and the class of a clip go through few latents and come out again.

# %%
from perceiver.data.multimodal import synthetic_clip
from perceiver.model.multimodal import autoencoder

config = autoencoder.MultimodalAutoencoderConfig(
    encoder=autoencoder.MultimodalEncoderConfig(num_cross_attention_heads=1, num_self_attention_layers_per_block=2),
    decoder=autoencoder.MultimodalDecoderConfig(
        num_classes=4,
        num_label_query_channels=64,
        num_output_channels=16,
        num_cross_attention_heads=1,
        num_cross_attention_qk_channels=16,
        num_cross_attention_v_channels=16,
        cross_attention_residual=False,
    ),
    num_latents=8,
    num_latent_channels=16,
    video_shape=(4, 32, 32, 3),
    num_video_frequency_bands=3,
    num_audio_samples=256,
    num_audio_frequency_bands=6,
)
model = autoencoder.PerceiverMultimodalAutoencoder(autoencoder.PerceiverMultimodalAutoencoderConfig(config)).eval()
clip = synthetic_clip(4, (32, 32), 256, np.random.default_rng(1))
video, audio = torch.from_numpy(clip.video)[None], torch.from_numpy(clip.audio)[None]
with torch.no_grad():
    latents = model.backend_model.encode(video, audio)
    decoded = model.backend_model.decode(latents)

figure, axes = plt.subplots(2, 5, figsize=(10, 4), layout="constrained")
for row, (frames, sound) in zip(axes, [(video, audio), (decoded.video.clamp(0, 1), decoded.audio)], strict=True):
    for axis, frame in zip(row, frames[0], strict=False):
        axis.imshow(frame.numpy())
        axis.axis("off")
    row[-1].plot(sound[0].numpy())
_ = figure.suptitle(f"a clip, and what {latents[0].numel()} numbers of random weights keep of it")
