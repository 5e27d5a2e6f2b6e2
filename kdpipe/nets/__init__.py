"""Small students that are no transformers: words in, one state per word out.

Every net has a `width` and turns `Words` into states `[B, T, width]`, 0 at padded places, so that
one head for tagging or one pooling and head for classification fits all of them.
"""
