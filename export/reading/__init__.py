"""What a checkpoint says: every setting and every tensor is read, known to be of no use, or refused by name.

``rope`` reads rotary settings wherever they are written, ``settings`` knows which other keys may stay unread,
``tensors`` which tensors may, ``modalities`` which encoders and adapters are there, ``preprocessor`` what prepares
pictures and sounds.
"""
