"""ChineseBERT (Sun et al. 2021, arXiv 2106.16038): BERT whose tokens are character, pinyin and glyph fused (section 3)."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from knn_ner_jax.models.bert import BertConfig, Embeddings


@dataclass(frozen=True)
class ChineseBertConfig(BertConfig):
    """The shape of a ChineseBERT; the defaults are those of the published ones.

    Attributes:
        num_letters: of the pinyin alphabet, tones and the blank included.
        letter_size: width of a letter's embedding.
        num_pixels: of a character's pictures together: 3 fonts of 24 x 24.
    """

    family: str = "chinesebert"
    num_letters: int = 32
    letter_size: int = 128
    num_pixels: int = 1728

    def make_embeddings(self, rngs: nnx.Rngs) -> "FusionEmbeddings":
        """The module that turns characters, their pinyin and their glyphs into the encoder's first hidden state."""
        return FusionEmbeddings(self, rngs)


class FusionEmbeddings(Embeddings):
    """Character, pinyin and glyph, each as wide as the hidden states, mapped to one; then position and type as in BERT."""

    def __init__(self, config: ChineseBertConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        init, hidden = nnx.initializers.normal(config.initializer_range), config.hidden_size
        self.letter = nnx.Embed(config.num_letters, config.letter_size, embedding_init=init, rngs=rngs)
        self.pinyin = nnx.Conv(config.letter_size, hidden, kernel_size=2, padding="VALID", kernel_init=init, rngs=rngs)
        self.glyph = nnx.Embed(config.vocab_size, config.num_pixels, embedding_init=init, rngs=rngs)
        self.glyph_map = nnx.Linear(config.num_pixels, hidden, kernel_init=init, rngs=rngs)
        self.fusion = nnx.Linear(3 * hidden, hidden, kernel_init=init, rngs=rngs)

    def tokens(
        self, token_ids: Int[Array, "batch length"], pinyin_ids: Int[Array, "batch length letters"] | None
    ) -> Float[Array, "batch length hidden"]:
        """Fuses what a character is called, how it sounds and how it looks.

        Raises:
            ValueError: there is no pinyin.
        """
        if pinyin_ids is None:
            raise ValueError("pinyin_ids: expected [batch, length, letters] for ChineseBERT, got None")
        sound = self.pinyin(self.letter(pinyin_ids)).max(axis=-2)
        parts = self.word(token_ids), sound, self.glyph_map(self.glyph(token_ids))
        return self.fusion(jnp.concatenate(parts, axis=-1))
