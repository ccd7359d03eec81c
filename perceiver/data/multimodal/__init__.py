"""Multimodal data: Lightning data modules of clips, which have video, audio and a class.

```
synthetic.py  SyntheticClipDataModule     clips.py  shapes that move and sound
```

The names below are imported when they are first used, so that inference does not pay for Lightning.
"""

from typing import TYPE_CHECKING

from perceiver.lazy import lazy_imports

if TYPE_CHECKING:
    from perceiver.data.multimodal.clips import Clip as Clip, synthetic_clip as synthetic_clip
    from perceiver.data.multimodal.synthetic import (
        SyntheticClipDataModule as SyntheticClipDataModule,
        SyntheticClips as SyntheticClips,
    )

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
