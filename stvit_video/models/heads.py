"""Classification from a final grid of tokens."""

from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """Mean over all tokens, dropout, linear classifier.

    Args:
        dim: channels C of a token.
        num_classes: classes.
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
        """Map tokens ``[B, ..., C]`` to logits ``[B, num_classes]``."""
        return self.fc(self.dropout(self.pool(x)))

    def pool(self, x: Tensor) -> Tensor:
        """Map tokens ``[B, ..., C]`` to what is classified, ``[B, C]``."""
        return x.flatten(1, -2).mean(1)


class ClassTokenHead(ClassificationHead):
    """The same on the class token alone, the first token of each frame (DeiT)."""

    def pool(self, x: Tensor) -> Tensor:
        """Map ``[B, T, 1, tokens, C]`` to the mean of the frames' class tokens, ``[B, C]``."""
        return x[:, :, 0, 0].mean(1)
