"""Readers of a checkpoint's settings and tensors: each is read, known to be unused, or refused by name.

``rope`` reads rotary settings, ``settings`` lists the other keys that may stay unread, ``tensors`` the tensors that
may, ``modalities`` finds encoders and adapters, ``preprocessor`` reads the settings of images and sounds.
"""
