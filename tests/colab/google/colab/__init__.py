"""Stand-in for Colab's own package. No `google/__init__.py` beside it: protobuf shares the name."""
