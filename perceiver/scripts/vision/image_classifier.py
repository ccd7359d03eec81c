"""Trains image classifiers: `python -m perceiver.scripts.vision.image_classifier fit|validate|test ...`.

Without further flags the model is the small one for MNIST (907,212 parameters for images of 28 x 28 pixels):

    python -m perceiver.scripts.vision.image_classifier fit --data=MNISTDataModule --data.batch_size=128 \\
        --optimizer=AdamW --optimizer.lr=1e-3 --lr_scheduler.warmup_steps=500 --trainer.max_epochs=30

Image shape and classes come from the data module and are no flags of the model. The image processor is saved beside the
logs, where `perceiver convert checkpoint --image-processor logs/img_clf/version_0` finds it.
"""

from functools import partial

from perceiver.scripts.start import train

main = partial(train, "image-classifier")

if __name__ == "__main__":
    main()
