"""Semantic tokens, the paper's subject: pooling, generation, layouts.

"Making Vision Transformers Efficient from A Token Sparsification View" (STViT, CVPR 2023).
"""
