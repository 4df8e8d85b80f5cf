"""What the paper's tables say: the figures as they are printed, and what makes their models."""

# Table 1. GFLOPs, images/s and top-1 of the base, then of 16, 36, 64 and 100 tokens.
TABLE_1 = {
    "T": (
        ("1.26", 2752, 72.2),
        ("0.53", 5511, 72.2),
        ("0.60", 4769, 72.7),
        ("0.71", 4214, 73.0),
        ("0.86", 3551, 73.2),
    ),
    "S": (
        ("4.58", 1408, 79.8),
        ("1.91", 2891, 79.8),
        ("2.20", 2542, 80.1),
        ("2.62", 2229, 80.5),
        ("3.16", 1837, 80.6),
    ),
    "B": (
        ("17.58", 626, 81.8),
        ("7.31", 1308, 81.8),
        ("8.44", 1150, 82.2),
        ("10.04", 1087, 82.6),
        ("12.13", 826, 82.7),
    ),
}
# Table 2. The base, then 4, 9 and 16 tokens a window, then 9 with the generation moved forward.
TABLE_2 = {
    "T": (
        ("4.5", 878, 81.3),
        ("2.99", 1128, 80.8),
        ("3.43", 1061, 81.5),
        ("4.06", 1008, 81.8),
        ("3.14", 1124, 81.0),
    ),
    "S": (
        ("8.7", 551, 83.0),
        ("5.95", 732, 82.4),
        ("6.53", 691, 83.0),
        ("7.36", 657, 83.1),
        ("5.95", 739, 82.8),
    ),
    "B": (
        ("15.4", 415, 83.5),
        ("10.48", 551, 83.0),
        ("11.51", 521, 83.4),
        ("12.97", 489, 83.7),
        ("10.48", 558, 83.2),
    ),
}
# Section 4.1: one layer earlier in T, two in S and B.
MOVED = {
    "T": "base 1, stgm 2, semantic 3",
    "S": "base 8, stgm 2, semantic 8",
    "B": "base 8, stgm 2, semantic 8",
}
# Table 3. GFLOPs, images/s and top-1: dense (of table 2), and with recovery.
TABLE_3 = {
    "S": (("8.7", 551, 83.0), ("5.83", 717, 82.7)),
    "B": (("15.4", 415, 83.5), ("10.26", 539, 83.2)),
}
# Table 4, of whose models these are ours. GFLOPs and top-1, with 16 tokens.
TABLE_4 = {"S": ("1.91", 79.8), "B": ("7.31", 81.8)}
# Table 5. GFLOPs of the backbone at 800 x 1344 and box AP on COCO: dense, and with recovery.
TABLE_5 = {"S": (("194", 51.8), ("134", 51.8)), "B": (("343", 51.9), ("233", 52.2))}
# Of STViT-R as a detector's backbone.
DETECTION = (
    *("STVIT.SHORTCUT", "True", "STVIT.SEMANTIC_KEYS", "none"),
    *("STVIT.KEY_WINDOWS", "(14, 21)", "STVIT.RECOVERY_WINDOW", "27"),
)
# Table 6. GFLOPs, frames/s and top-1 (4 clips x 3 crops): dense, and with semantic tokens.
TABLE_6 = {
    "T": (("88", 779, 78.8), ("64.4", 975, 78.5)),
    "S": (("166", 456, 80.6), ("120.5", 572, 80.3)),
}
# Table 7. Top-1 of STViT-DeiT-S with 16 tokens.
TABLE_7 = {"spatial": 79.4, "global": 78.7, "spatial+global": 79.8, "spatial+position": 79.7}
# Table 8. Layers of the generation module: GFLOPs and top-1 of STViT-DeiT-S with 16 tokens.
TABLE_8 = {2: ("1.91", 79.8), 3: ("1.97", 79.5), 4: ("2.03", 79.6)}
# Table 9. Box AP on COCO, and the keys that make the row of STViT-R.
TABLE_9 = {
    "STViT-R": (51.8, ()),
    "without dumbbell units": (
        51.4,
        # STGM in layers 6 and 7, and as many FLOPs as STViT-R (section 4.4).
        ("STVIT.LAYOUT", "base 5, stgm 2, semantic 9, recovery 2"),
    ),
    "reusing semantic tokens": (51.6, ("STVIT.REUSE_TOKENS", "True")),
}
