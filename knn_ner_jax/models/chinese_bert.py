"""ChineseBERT (Sun et al. 2021, arXiv 2106.16038): a BERT that embeds a token by character, pinyin and glyph (section 3)."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from knn_ner_jax.models.bert import BertConfig, Embeddings


@dataclass(frozen=True)
class ChineseBertConfig(BertConfig):
    """Sizes of a ChineseBERT; the defaults are those of the published models.

    Attributes:
        num_letters: size of the pinyin alphabet, tones and the blank included.
        letter_size: width of a letter's embedding.
        num_pixels: pixels of all pictures of a character: 3 fonts of 24 x 24.
    """

    family: str = "chinesebert"
    num_letters: int = 32
    letter_size: int = 128
    num_pixels: int = 1728

    def make_embeddings(self, rngs: nnx.Rngs) -> "FusionEmbeddings":
        """Return the module that turns characters, their pinyin and their glyphs into the encoder's first hidden state."""
        return FusionEmbeddings(self, rngs)


class FusionEmbeddings(Embeddings):
    """Embeddings of character, pinyin and glyph, mapped to one hidden state; position and type are added as in BERT."""

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
        """Return one embedding made of those of character, pinyin and glyph.

        Raises:
            ValueError: `pinyin_ids` is None.
        """
        if pinyin_ids is None:
            raise ValueError("pinyin_ids: expected [batch, length, letters] for ChineseBERT, got None")
        sound = self.pinyin(self.letter(pinyin_ids)).max(axis=-2)
        parts = self.word(token_ids), sound, self.glyph_map(self.glyph(token_ids))
        return self.fusion(jnp.concatenate(parts, axis=-1))
