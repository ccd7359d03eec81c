"""Multimodal data: Lightning data modules of clips, which have video, audio and a class.

```
synthetic.py  SyntheticClipDataModule     clips.py  shapes that move and sound
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_names

if TYPE_CHECKING:
    from perceiver.data.multimodal.clips import Clip, synthetic_clip
    from perceiver.data.multimodal.synthetic import SyntheticClipDataModule, SyntheticClips

__all__ = ["Clip", "SyntheticClipDataModule", "SyntheticClips", "synthetic_clip"]

__getattr__ = lazy_names(
    __name__,
    {
        "Clip": "clips",
        "SyntheticClipDataModule": "synthetic",
        "SyntheticClips": "synthetic",
        "synthetic_clip": "clips",
    },
)
