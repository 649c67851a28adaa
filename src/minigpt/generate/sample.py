"""A generated text with its tokens and their surprise, as runs record it."""

import re
from dataclasses import dataclass
from typing import Unpack

from minigpt.data.tokenizer import Tokenizer
from minigpt.generate.surprise import token_surprises
from minigpt.generate.text import TextGenerator
from minigpt.np.model import GPT
from minigpt.np.sampling import SamplingOptions

_SENTENCE_END = re.compile(r"""[.!?\u2026\u3002\uff01\uff1f]["'\u201d\u2019\u300d\u300f)]*\s*$""")
"An end mark (also the ellipsis and those of Chinese and Japanese) and closing quotation marks."
_PIECES = 6  # the pieces before the end of a token in which the end of a sentence is searched


@dataclass(frozen=True)
class GeneratedText:
    """A generated text, without its prompt."""

    tokens: list[int]
    "The token ids."
    pieces: list[str]
    "The text that each token completes; the pieces joined are the text. A token inside a character completes none."
    surprises: list[float]
    "The surprisal of each token in bits, -log2 of the probability that the model gave it."

    @property
    def text(self) -> str:
        """The text."""
        return "".join(self.pieces)

    def up_to_last_sentence(self) -> "GeneratedText":
        """Return the text without an unfinished last sentence, or all of it if no sentence in it is complete."""
        for n in range(len(self.pieces), 0, -1):
            if self.pieces[n - 1] and _SENTENCE_END.search("".join(self.pieces[max(0, n - _PIECES) : n])):
                return GeneratedText(self.tokens[:n], self.pieces[:n], self.surprises[:n])
        return self


def generate_text(
    model: GPT, tokenizer: Tokenizer, prompt: str, max_new_tokens: int, *, seed: int = 0, **sampling: Unpack[SamplingOptions]
) -> GeneratedText:
    """Continue a prompt to the end of the text, or to the last complete sentence of `max_new_tokens` tokens."""
    generator = TextGenerator(model, tokenizer, [prompt], max_new_tokens, [seed], **sampling)
    found = list(token_surprises(generator.steps, others=0))
    ended = bool(found) and found[-1].token in (tokenizer.end_of_text, tokenizer.begin_of_text)
    found = found[:-1] if ended else found
    stream = tokenizer.stream(tokenizer.encode(prompt))
    pieces = [stream.push(surprise.token) for surprise in found]
    if pieces:
        pieces[-1] += stream.finish()
    text = GeneratedText([s.token for s in found], pieces, [round(s.surprise, 2) for s in found])
    return text if ended else text.up_to_last_sentence()
