"""Fetches official weights: plain HTTPS, the Hugging Face hub, Kaggle models."""

from pathlib import Path
from typing import Any

from tlflax.backbones.spec import Source
from tlflax.errors import ConvertError
from tlflax.folders import cache_dir


def download(source: Source) -> Path:
    """Downloads an official file or folder into the cache.

    Raises:
      ConvertError: no connection or another hash.
    """
    scheme = source.url.split(":", 1)[0]
    if scheme == "hf":
        return _hugging_face(source)
    if scheme == "kaggle":
        return _kaggle(source)
    return _https(source)


def _failed(source: Source, error: Exception, by_hand: str) -> ConvertError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return ConvertError(
        f"could not download {source.url} ({reason}). Fetch {by_hand} by hand and put it in a "
        "folder named with --config.weights_dir=FOLDER"
    )


def _hugging_face(source: Source) -> Path:
    """``hf:OWNER/REPOSITORY/FILE``; kept in the Hugging Face cache, which other programs share."""
    owner, repository, file = source.url.removeprefix("hf:").split("/", 2)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:  # requests/httpx errors and the hub's own have no common base
        by_hand = f"{file} of huggingface.co/{owner}/{repository}, named {source.file_name},"
        raise _failed(source, error, by_hand) from error


def _kaggle(source: Source) -> Path:
    """``kaggle:OWNER/MODEL/FRAMEWORK/VARIATION/VERSION``: a folder in kagglehub's own cache."""
    handle = source.url.removeprefix("kaggle:")
    try:
        import kagglehub
    except ImportError as error:
        raise ConvertError(f"{source.url} needs kagglehub: pip install -e '.[tf]'") from error
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:  # see above
        by_hand = f"kaggle.com/models/{handle}, unpacked as the folder {source.file_name},"
        raise _failed(source, error, by_hand) from error


def _https(source: Source) -> Path:
    """With progress bar, hash check and atomic rename (pooch)."""
    import pooch

    # pooch's own annotation of a downloader names the arguments of a processor.
    downloader: Any = pooch.HTTPDownloader(progressbar=True, timeout=30)
    folder = cache_dir() / "downloads"
    # torch.hub publishes the first digits of the hash alone; pooch wants all of them.
    prefix = (source.hash or "").partition("sha256-prefix:")[2]
    try:
        path = pooch.retrieve(
            source.url,
            known_hash=None if prefix else source.hash,
            fname=source.file_name,
            path=folder,
            downloader=downloader,
        )
        if prefix and not pooch.file_hash(path).startswith(prefix):
            Path(path).unlink()
            raise ValueError(f"its sha256 does not begin with the published {prefix}")
    except Exception as error:  # requests, urllib3 and pooch have no common base class
        raise _failed(source, error, source.file_name) from error
    return Path(path)
