"""Images and optical flow: Lightning data modules, random changes of training images, the processor of optical flow.

```
base.py        ImageDataModule: splits of labelled images -> batches {"image": (B, H, W, C), "label": (B,)}
mnist.py       MNISTDataModule     digits.py  DigitsDataModule     imagenet.py  ImageNetDataModule
folder.py      ImageFolderDataModule: files in a folder per class
images.py      data sets of arrays or files, examples, batches
transforms.py  random crops, RandAugment, MixUp, CutMix

optical_flow.py    OpticalFlowProcessor, render_optical_flow: frames -> features, predictions -> flow -> colours
flow_modules.py    SyntheticFlowDataModule, FlyingChairsDataModule, SintelFlowDataModule, KittiFlowDataModule
flow_synthetic.py  textures and motions that are known exactly
flow_folders.py    layouts of data sets     flow_examples.py  an example and its augmentation
flow_io.py         files of ground truth    video_utils.py    frames of videos
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names

if TYPE_CHECKING:
    from perceiver.data.vision.base import ImageDataModule
    from perceiver.data.vision.digits import DigitsDataModule
    from perceiver.data.vision.flow_modules import (
        FlyingChairsDataModule,
        KittiFlowDataModule,
        OpticalFlowDataModule,
        SintelFlowDataModule,
        SyntheticFlowDataModule,
    )
    from perceiver.data.vision.folder import ImageFolderDataModule
    from perceiver.data.vision.imagenet import ImageNetDataModule
    from perceiver.data.vision.images import image_dataset
    from perceiver.data.vision.mnist import MNISTDataModule
    from perceiver.data.vision.optical_flow import OpticalFlowProcessor, render_optical_flow
    from perceiver.data.vision.transforms import Augmentation, Mixing

__all__ = [
    "Augmentation",
    "DigitsDataModule",
    "FlyingChairsDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "KittiFlowDataModule",
    "MNISTDataModule",
    "Mixing",
    "OpticalFlowDataModule",
    "OpticalFlowProcessor",
    "SintelFlowDataModule",
    "SyntheticFlowDataModule",
    "image_dataset",
    "render_optical_flow",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Augmentation": "transforms",
        "DigitsDataModule": "digits",
        "FlyingChairsDataModule": "flow_modules",
        "ImageDataModule": "base",
        "ImageFolderDataModule": "folder",
        "ImageNetDataModule": "imagenet",
        "KittiFlowDataModule": "flow_modules",
        "MNISTDataModule": "mnist",
        "Mixing": "transforms",
        "OpticalFlowDataModule": "flow_modules",
        "OpticalFlowProcessor": "optical_flow",
        "SintelFlowDataModule": "flow_modules",
        "SyntheticFlowDataModule": "flow_modules",
        "image_dataset": "images",
        "render_optical_flow": "optical_flow",
    },
)
