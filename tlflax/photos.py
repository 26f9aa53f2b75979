"""The images of a notebook: a dataset that can be looked at."""

from tlflax.data.source import Dataset
from tlflax.errors import ConfigError, suggest
from tlflax.picture import Picture

_SPLITS = ("train", "val", "test")


class Photos(Dataset):
    """A dataset that remembers at which size it is meant to be shown to a network."""

    image_size: int = 0

    def show(
        self,
        *,
        augment: str = "",
        split: str = "train",
        images: int = 0,
        columns: int = 6,
        seed: int = 0,
    ) -> Picture:
        """Shows some images, spread over the classes, or what an augmentation makes of them.

        Args:
          augment: as in a stage, e.g. ``"flip_crop"``: each row is then one training image and
            random versions of it, at the dataset's ``image_size`` (224 without one).
          split: ``train``, ``val`` or ``test``.
          images: how many; by default 24, and 4 with ``augment``. Without ``augment`` rounded up
            to whole rows.
          columns: pictures in a row.
          seed: decides which images are shown, and how they are changed.

        Raises:
          ConfigError: an argument is wrong; only training images are augmented.
          DataError: there is no image in the split.
        """
        from tlflax.report import grid

        if split not in _SPLITS:
            raise ConfigError(
                f"split {split!r} is not one of {', '.join(_SPLITS)}{suggest(split, _SPLITS)}"
            )
        for name, value, least in (("images", images, 0), ("columns", columns, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number from 1, got {value!r}")
        chosen, names = getattr(self, split), self.class_names
        if not augment:
            rows = -(-(images or 24) // columns)
            picture = grid.samples(
                chosen, names, size=self.image_size, rows=rows, columns=columns, seed=seed
            )
        elif split != "train":
            raise ConfigError(f"split {split!r} is never augmented; leave out split or augment")
        else:
            size, rows = self.image_size or 224, images or 4
            picture = grid.preview(
                chosen, augment, size, rows=rows, columns=columns, seed=seed, class_names=names
            )
        return Picture(picture)
