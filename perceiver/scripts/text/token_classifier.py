"""Trains token classifiers: `python -m perceiver.scripts.text.token_classifier fit|validate|test ...`.

Without further flags the model is Perceiver IO base on UTF-8 bytes (arXiv 2107.14795) with classes in place of tokens,
so that a masked language model of `perceiver.scripts.text.mlm` can initialise the encoder and the decoder:

    python -m perceiver.scripts.text.token_classifier fit --data=LocalTokenClassificationDataModule \\
        --data.train_files=train.conll --data.tokenizer=deepmind/language-perceiver --data.max_seq_len=2048 \\
        --model.encoder.params=my-mlm --model.decoder.params=my-mlm --optimizer=AdamW --optimizer.lr=1e-5

Vocabulary size, sequence length and classes come from the data module and are no flags of the model.
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "token-classifier")

if __name__ == "__main__":
    main()
