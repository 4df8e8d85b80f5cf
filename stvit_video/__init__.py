"""STViT for video: semantic tokens in Video Swin Transformers, on top of PyTorchVideo."""
