"""Images and labels: where they come from, how they are split, decoded, augmented and batched.

The package knows no model: image size, resize rule and augmentation reach it as plain values.
Importing it imports neither jax nor TensorFlow.
"""
