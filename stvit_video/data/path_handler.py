"""Handing our readers to PyTorchVideo's own data sets."""

from pathlib import Path

from pytorchvideo.data.video import Video, VideoPathHandler

from stvit_video.data.decode import open_video


class ReaderPathHandler(VideoPathHandler):
    """Opens video files with `open_video`; folders of frames stay PyTorchVideo's business.

    Give it to a data set after that is made: ``dataset.video_path_handler = ReaderPathHandler()``.
    Clips are then uint8, hold ffmpeg's own frames, and have no audio.
    """

    def video_from_path(
        self,
        filepath: str,
        decode_audio: bool = False,
        decoder: str = "pyav",
        fps: int = 30,
    ) -> Video:
        """Open a video; ``decoder`` is a backend of `open_video`, ``fps`` is for folders.

        Raises:
            VideoError: the file is missing, broken, or not a video.
        """
        if Path(filepath).is_dir():
            return super().video_from_path(filepath, decode_audio, decoder, fps)
        return open_video(filepath, backend=decoder)
