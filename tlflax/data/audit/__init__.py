"""What is wrong with a set of images: `examine` looks at every one and says what to change.

`facts` decodes each image once and keeps a few numbers, a digest of its pixels and a thumbnail of
1 KB; `twins` finds the same picture twice; `findings` turns both into sentences. Needs no jax.
"""

from tlflax.data.audit.examine import Report, examine
from tlflax.data.audit.findings import SEVERITIES, Finding

__all__ = ["SEVERITIES", "Finding", "Report", "examine"]
