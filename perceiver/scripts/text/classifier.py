"""Trains text classifiers: `python -m perceiver.scripts.text.classifier fit|validate|test ...`.

Without further flags the model is the published classifier of IMDb reviews (200,587,010 parameters for 2,048 bytes and
two classes). Its encoder is that of Perceiver IO base, so that a masked language model of `perceiver.scripts.text.mlm`
can initialise it:

    python -m perceiver.scripts.text.classifier fit --data=ImdbDataModule \\
        --data.tokenizer=deepmind/language-perceiver --data.max_seq_len=2048 \\
        --model.encoder.params=my-mlm --model.encoder.freeze=true --optimizer=AdamW --optimizer.lr=1e-3

Vocabulary size, sequence length and classes come from the data module and are no flags of the model.
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "text-classifier")

if __name__ == "__main__":
    main()
