"""Trains masked language models: `python -m perceiver.scripts.text.mlm fit|validate|test ...`.

Without further flags the model is Perceiver IO base on UTF-8 bytes (arXiv 2107.14795; 201,108,230 parameters for 2,048
bytes), so a command names the data and what differs:

    python -m perceiver.scripts.text.mlm fit --data=WikiTextDataModule --data.tokenizer=deepmind/language-perceiver \\
        --data.max_seq_len=512 --model.num_latents=32 --optimizer=AdamW --optimizer.lr=1e-3 --trainer.max_steps=500

Vocabulary size and sequence length come from the data module and are no flags of the model.
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "mlm")

if __name__ == "__main__":
    main()
