"""sovtune: fine-tune open language models on data that must not leave the building."""

__version__ = "0.1.0"
