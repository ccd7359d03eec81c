"""Images and optical flow: Lightning data modules, random changes of training images.

```
base.py        ImageDataModule: splits of labelled images -> batches {"image": (B, H, W, C), "label": (B,)}
mnist.py       MNISTDataModule     digits.py  DigitsDataModule     imagenet.py  ImageNetDataModule
folder.py      ImageFolderDataModule: files in a folder per class
images.py      data sets of arrays or files, examples, batches
transforms.py  random crops, RandAugment, MixUp, CutMix

flow_modules.py    OpticalFlowDataModule, and under it SyntheticFlowDataModule, FlyingChairsDataModule,
                   SintelFlowDataModule, KittiFlowDataModule
flow_synthetic.py  textures and motions that are known exactly
flow_folders.py    layouts of data sets     flow_examples.py  an example and its augmentation
flow_io.py         files of ground truth
```

The processor of optical flow is in `perceiver.processing.optical_flow`, and has its names here, too. All names are
imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.data.vision.base import ImageDataModule as ImageDataModule
    from perceiver.data.vision.digits import DigitsDataModule as DigitsDataModule
    from perceiver.data.vision.flow_modules import (
        FlyingChairsDataModule as FlyingChairsDataModule,
        KittiFlowDataModule as KittiFlowDataModule,
        OpticalFlowDataModule as OpticalFlowDataModule,
        SintelFlowDataModule as SintelFlowDataModule,
        SyntheticFlowDataModule as SyntheticFlowDataModule,
    )
    from perceiver.data.vision.folder import ImageFolderDataModule as ImageFolderDataModule
    from perceiver.data.vision.imagenet import ImageNetDataModule as ImageNetDataModule
    from perceiver.data.vision.images import image_dataset as image_dataset
    from perceiver.data.vision.mnist import MNISTDataModule as MNISTDataModule
    from perceiver.data.vision.transforms import Augmentation as Augmentation, Mixing as Mixing
    from perceiver.processing.optical_flow import (
        OpticalFlowProcessor as OpticalFlowProcessor,
        render_optical_flow as render_optical_flow,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
