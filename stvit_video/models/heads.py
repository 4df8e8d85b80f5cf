"""Classification heads.

Notation: B batch, T frames, C channels, K classes.
"""

from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """Mean over all tokens, dropout and a linear classifier.

    Args:
        dim: channels C of a token.
        num_classes: number of classes K.
        dropout: dropout rate before the classifier.
        init_std: standard deviation of the classifier's initial weights.
    """

    def __init__(
        self, dim: int, *, num_classes: int, dropout: float = 0.0, init_std: float = 0.01
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(dim, num_classes)
        nn.init.normal_(self.fc.weight, std=init_std)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, ..., C]`` to logits ``[B, K]``."""
        return self.fc(self.dropout(self.pool(x)))

    def pool(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, ..., C]`` to pooled features ``[B, C]``."""
        return x.flatten(1, -2).mean(1)


class ClassTokenHead(ClassificationHead):
    """Classification head on the class token, the first token of each frame (DeiT)."""

    def pool(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, T, 1, tokens, C]`` to the mean of the class tokens ``[B, C]``."""
        return x[:, :, 0, 0].mean(1)
