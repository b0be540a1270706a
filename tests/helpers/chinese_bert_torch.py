"""ChineseBERT's embedding layer in plain PyTorch, as a reference for tests (arXiv 2106.16038, section 3).

Every character is the fusion of three vectors: its word embedding, its pinyin (a convolution of width 2 over 8
letter embeddings, max-pooled over positions) and its glyph (three 24 x 24 font bitmaps, flattened, one linear map).
The three are concatenated and mapped back to the hidden size; position and type embeddings are added; LayerNorm,
dropout. What follows is BERT's own encoder, unchanged. Parameter names are those of the published checkpoints
(prefix `bert.embeddings.`), so a state dict made here converts like a real one.
"""

import torch
from torch import nn


class PinyinEmbeddings(nn.Module):
    def __init__(self, letters, letter_size, hidden_size):
        super().__init__()
        self.embedding = nn.Embedding(letters, letter_size)
        self.conv = nn.Conv1d(letter_size, hidden_size, kernel_size=2)

    def forward(self, pinyin_ids):  # [batch, length, 8]
        batch, length, _ = pinyin_ids.shape
        letters = self.embedding(pinyin_ids).flatten(0, 1).transpose(1, 2)  # [batch*length, letter_size, 8]
        return self.conv(letters).amax(-1).unflatten(0, (batch, length))  # [batch, length, hidden]


class GlyphEmbeddings(nn.Module):
    def __init__(self, vocab_size, pixels):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, pixels)

    def forward(self, input_ids):
        return self.embedding(input_ids)  # [batch, length, pixels]


class ChineseBertEmbeddings(nn.Module):
    """pixels is 1728 (3 fonts of 24 x 24) and letters 32 in the published models; tests may use less."""

    def __init__(
        self, vocab_size, hidden_size, max_positions=512, types=2, letters=32, letter_size=128, pixels=1728, eps=1e-12
    ):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(max_positions, hidden_size)
        self.token_type_embeddings = nn.Embedding(types, hidden_size)
        self.pinyin_embeddings = PinyinEmbeddings(letters, letter_size, hidden_size)
        self.glyph_embeddings = GlyphEmbeddings(vocab_size, pixels)
        self.glyph_map = nn.Linear(pixels, hidden_size)
        self.map_fc = nn.Linear(3 * hidden_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, input_ids, pinyin_ids, token_type_ids=None):
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        fused = self.map_fc(
            torch.cat(
                [
                    self.word_embeddings(input_ids),
                    self.pinyin_embeddings(pinyin_ids),
                    self.glyph_map(self.glyph_embeddings(input_ids)),
                ],
                dim=-1,
            )
        )
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        return self.LayerNorm(fused + positions + self.token_type_embeddings(types))


if __name__ == "__main__":
    torch.manual_seed(0)
    m = ChineseBertEmbeddings(50, 16, letters=32, letter_size=8, pixels=27)
    out = m(torch.randint(0, 50, (2, 7)), torch.randint(0, 32, (2, 7, 8)))
    print(tuple(out.shape), sorted(n for n, _ in m.named_parameters()))
