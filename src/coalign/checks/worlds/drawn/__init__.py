"""Drawn pictures with captions, and a small CLIP that has learnt them.

A scene is one or two objects, each a shape of a colour and a size in a corner; its caption says some of that. Checks of
image-text systems start from the same small CLIP, a real `transformers.CLIPModel` in a folder, so that they walk the path
of a user's model::

    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(100)]
    pictures = draw_many(scenes, PLAIN, rng)              # [100, 3, 32, 32], 0 to 1
    texts = [caption(one, rng) for one in scenes]
    folder = small_clip()                                 # trained once, about four minutes; then from the cache
    encoder = ImageTextEncoder.load(folder)
    image = encoder.image(pictures).pooled                # pixel values are the pictures themselves
    text = encoder.text(encoder.ids(texts)).pooled
    noisy = train_small_clip(pictures, texts, steps=700, seed=1)   # another one, on data of one's own

Files: `scene` (objects and pictures), `captions` (sentences and words), `small_clip` (the model and its training).
"""
