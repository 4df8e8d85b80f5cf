"""Semantic tokens (STViT and STViT-R): pooling, generation, recovery, layouts.

"Making Vision Transformers Efficient from A Token Sparsification View" (STViT, CVPR 2023).
"""
