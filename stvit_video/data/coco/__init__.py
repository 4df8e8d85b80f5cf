"""Images with boxes and masks, in COCO's layout and format."""
