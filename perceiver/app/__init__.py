"""A local page to play with converted models: `perceiver app FOLDER...`.

    server.py      serves the page and runs what it asks for
    page.html      draws inputs and outputs; it knows no task
    playground.py  what a task's playground is; chooses the one of a folder
    text.py        masked language model, text classifier, token classifier
    causal.py      causal language model
    vision.py      image classifier, optical flow
    music.py       symbolic audio
    clips.py       multimodal autoencoder

Nothing but the standard library serves it, and the page loads nothing from elsewhere.
"""
