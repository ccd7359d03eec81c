"""What training and inference share: how text, images, frames and music become numbers, and what numbers mean.

tokenization.py   text -> flat arrays of token ids and word marks; UTF-8 bytes vectorised, or any fast tokenizer
text.py           TextPreprocessor: text -> model input
pillow.py         images of any kind -> grayscale or RGB
image.py          PerceiverImageClassifierInputProcessor: images -> pixel values
optical_flow.py   OpticalFlowProcessor: frames -> features of tiles, flow of tiles -> flow of the frame; its colours
video.py          frames of videos
midi.py           MIDI <-> events, the tokens of symbolic audio
sound.py          MIDI -> sound and piano roll

The room is below models and data: it imports neither.
"""
