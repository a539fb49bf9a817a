"""Exact and near duplicates in a stream of documents: the first stays.

Near ones by MinHash with locality-sensitive hashing (rensa) over pieces of five words. The report compares embeddings;
this needs no model, and finds copies that were edited, not texts that say the same in other words.
"""

from rensa import RMinHash, RMinHashLSH

from megatron_k15.corpus.documents import Document
from megatron_k15.corpus.settings import CorpusSettings

NUM_PERMUTATIONS = 128
NUM_BANDS = 16
"""Bands of 8 values: two texts of similarity 0.8 meet in one with probability 1 - (1 - 0.8^8)^16 = 0.95; the estimate
over all 128 values then decides."""
WORDS = 5
HASH_SEED = 42


class Duplicates:
    """Memory grows by about 3 kilobytes per document that stays."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._threshold = settings.max_similarity
        self._keys: set[str] = set()
        self._hashes: list[RMinHash] = []
        self._lsh = RMinHashLSH(threshold=self._threshold, num_perm=NUM_PERMUTATIONS, num_bands=NUM_BANDS)

    def found(self, document: Document) -> str | None:
        """`duplicate`, `near_duplicate`, or None and the document is remembered."""
        if document.key in self._keys:
            return "duplicate"
        if self._threshold < 1:
            minhash = _minhash(document.text)
            near = self._lsh.query(minhash)
            if any(self._hashes[index].jaccard(minhash) >= self._threshold for index in near):
                return "near_duplicate"
            self._lsh.insert(len(self._hashes), minhash)
            self._hashes.append(minhash)
        self._keys.add(document.key)
        return None


def _minhash(text: str) -> RMinHash:
    words = text.lower().split()
    pieces = {" ".join(words[start : start + WORDS]) for start in range(max(1, len(words) - WORDS + 1))}
    minhash = RMinHash(num_perm=NUM_PERMUTATIONS, seed=HASH_SEED)
    minhash.update(sorted(pieces))
    return minhash
