"""Images with boxes and masks, in COCO's folder layout and annotation format."""
