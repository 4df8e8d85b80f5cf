"""A data set of moving sprites that the project makes itself, as real video files."""
