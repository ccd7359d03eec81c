"""Trains and evaluates causal language models: `python -m perceiver.scripts.text.clm fit|validate|test|evaluate ...`.

Without further flags the model is the published Perceiver AR over UTF-8 bytes (arXiv 2202.07765; 30,563,078 parameters
for 4,096 bytes, 512 of them latents), so a command names the data and what differs:

    python -m perceiver.scripts.text.clm fit --data=WikiTextDataModule --data.tokenizer=deepmind/language-perceiver \\
        --data.max_seq_len=4096 --model.max_latents=512 --optimizer=AdamW --optimizer.lr=2e-4 --trainer.max_steps=500

Vocabulary size and sequence length come from the data module and are no flags of the model.

`evaluate` scores every token of text files with a trained model (`perceiver.model.text.clm.evaluation`):

    python -m perceiver.scripts.text.clm evaluate --model=krasserm/perceiver-ar-clm-base --data book.txt --device=cuda
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "clm")

if __name__ == "__main__":
    main()
